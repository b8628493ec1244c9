"""`hypereyes_jax.load`: a checkpoint as an object to ask."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import hypereyes_jax
from hypereyes_jax import miniature
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.agent import read_picture
from hypereyes_jax.models.qwen3_vl import forward
from hypereyes_jax.processing import pack_inputs

TEACHER = Path(str(resources.files("hypereyes_jax.assets") / "teacher"))


@pytest.fixture(scope="module")
def agent():
    return hypereyes_jax.load(TEACHER, min_pixels=miniature.MIN_PIXELS, max_pixels=miniature.MAX_PIXELS)


@pytest.fixture(scope="module")
def world():
    return World.load(passages=False)


@pytest.fixture(scope="module")
def flags(world, tmp_path_factory):
    canvas = Image.new("RGB", (256, 192), "white")
    for place, key in enumerate(("fr", "br")):
        canvas.paste(world.flag(key).convert("RGB").resize((100, 66)), (10 + 125 * place, 40))
    path = tmp_path_factory.mktemp("flags") / "flags.png"
    canvas.save(path)
    return path


def test_ask_plays_an_episode_with_the_given_backend(agent, world, flags):
    answer = agent.ask(
        flags,
        "Which of these two countries has the larger population?",
        search=WorldBackend(world),
        episode=miniature.EPISODE,
        max_new_tokens=256,
    )
    assert answer.text == answer.trajectory.result.answer
    assert answer.trajectory.result.rounds >= 1, "the shipped teacher searches"
    assert str(answer)
    here = agent.ask(None, "What is the capital of Chad?", episode=miniature.EPISODE, max_new_tokens=64)
    assert here.trajectory.result.turns  # the miniature world is searched where nothing else is named
    again = asyncio.run(_in_a_loop(agent, world, flags))  # as in a notebook, whose event loop runs already
    assert again.text == answer.text


async def _in_a_loop(agent, world, flags):
    return agent.ask(
        [Image.open(flags)],
        "Which of these two countries has the larger population?",
        search=WorldBackend(world),
        episode=miniature.EPISODE,
        max_new_tokens=256,
    )


def test_generate_is_the_likeliest_continuation(agent):
    text = agent.generate("Which flag has a star?", system="Answer.", max_new_tokens=6)
    config, params = agent.engines.all[0].config, agent.engines.params
    row = agent.chat.prompt("Answer.", ["Which flag has a star?"]).tokens.tolist()
    start = len(row)
    for _ in range(6):
        logits = np.array(forward(params, config, pack_inputs(config, [(row, [])]))[0, len(row) - 1])
        logits[[config.image_token_id, config.video_token_id, *config.unused_token_ids]] = -np.inf
        row.append(int(logits.argmax()))
        if row[-1] in agent.chat.stop_ids:
            break
    assert text == agent.chat.decode(row[start:])


def test_what_cannot_be_read_has_one_sentence(agent, tmp_path):
    with pytest.raises(UserError, match=r"can't open .*nothing\.png"):
        agent.generate("What is it?", [tmp_path / "nothing.png"])
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(UserError, match=r"can't open .*text\.png"):
        agent.ask(tmp_path / "text.png", "What is it?", search=None)
    with pytest.raises(UserError, match="the message can't be read"):
        agent.generate("a word " * 3000)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        hypereyes_jax.load(tmp_path)


def processor(path, content):
    shutil.copytree(TEACHER, path)
    (path / "preprocessor_config.json").write_text(json.dumps(content))
    return hypereyes_jax.load(path).engines.all[0].settings


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_picture_in_memory_is_turned_as_its_file_is(tmp_path, orientation):
    image = Image.new("RGB", (64, 32), "red")
    image.paste("blue", (0, 0, 16, 32))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(tmp_path / "photo.jpg", exif=exif, quality=100)
    with Image.open(tmp_path / "photo.jpg") as opened:
        in_memory = read_picture(opened)
    from_file = read_picture(tmp_path / "photo.jpg")
    np.testing.assert_array_equal(np.asarray(in_memory), np.asarray(from_file))
    assert not np.array_equal(np.asarray(in_memory), np.asarray(image))


def test_images_are_resized_as_the_checkpoint_says(tmp_path):
    trained = processor(tmp_path / "a", {"size": {"shortest_edge": 1024, "longest_edge": 49152}})
    assert (trained.min_pixels, trained.max_pixels) == (1024, 49152)
    published = processor(tmp_path / "b", {"size": {"shortest_edge": 65536, "longest_edge": 16777216}})
    assert (published.min_pixels, published.max_pixels) == (65536, 1200 * 32 * 32)
    with pytest.raises(UserError, match=r"preprocessor_config\.json is damaged"):
        processor(tmp_path / "c", {"size": {"shortest_edge": -1, "longest_edge": 7}})


def test_the_package_does_not_import_jax_for_it():
    code = "import hypereyes_jax, sys; assert 'load' in dir(hypereyes_jax); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
