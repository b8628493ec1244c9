"""What is written opens in transformers, and says what the model was trained with."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from hypereyes_jax.configs.rollout import EngineConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.export import export_merged
from hypereyes_jax.models.pretrained import load_model, save_model
from hypereyes_jax.models.qwen3_vl import forward, save_hf
from hypereyes_jax.processing import pack_inputs, patchify
from hypereyes_jax.rollout.device import Device

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
PIXELS = (64 * 64, 128 * 96)


@pytest.fixture(scope="module", params=["save_model", "export_merged"])
def written(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "model"
    config, params, _ = load_model(BASE)
    save_model(path, config, params, BASE, "float32", pixels=PIXELS)
    if request.param == "export_merged":
        export_merged(path, path.parent / "exported")
        path = path.parent / "exported"
    return path


def test_the_image_processor_of_transformers_makes_the_patches_that_training_made(written):
    processor = transformers.AutoImageProcessor.from_pretrained(written)
    config, _, _ = load_model(written)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8))
    ours = patchify(image, config.vision, *PIXELS)
    theirs = processor(images=[image], return_tensors="np")
    assert theirs["image_grid_thw"].tolist() == [list(ours.grid_thw)]
    assert len(ours.patches) * 256 <= PIXELS[1]
    # its resampling rounds to 8 bits in another place: at most two of 255 steps
    np.testing.assert_allclose(theirs["pixel_values"], ours.patches, atol=4.1 / 255)


def test_transformers_reads_model_and_tokenizer_and_generates(written):
    tokenizer = transformers.AutoTokenizer.from_pretrained(written)
    model = transformers.AutoModelForImageTextToText.from_pretrained(written).eval()
    config, params, chat = load_model(written)
    assert model.dtype == torch.float32
    messages = [{"role": "system", "content": "Search."}, {"role": "user", "content": "Which flag?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    prompt = chat.prompt("Search.", ["Which flag?"]).tokens
    assert ids["input_ids"][0].tolist() == prompt.tolist()
    made = model.generate(**ids, max_new_tokens=8, do_sample=False)[0].tolist()
    row = list(prompt)
    for _ in range(8):
        logits = forward(params, config, pack_inputs(config, [(row, [])]))
        row.append(int(np.argmax(logits[0, len(row) - 1])))
        if row[-1] in chat.stop_ids:
            break
    assert made == row


def test_the_processor_of_transformers_opens(written):
    pytest.importorskip("torchvision")  # transformers' video processor needs it
    processor = transformers.AutoProcessor.from_pretrained(written)
    content = [{"type": "image", "image": Image.new("RGB", (500, 300))}, {"type": "text", "text": "Which?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    config, _, _ = load_model(written)
    grid = patchify(content[0]["image"], config.vision, *PIXELS).grid_thw
    assert np.sum(np.asarray(inputs["input_ids"]) == config.image_token_id) == np.prod(grid) // 4


def test_dtype_and_ids_are_named(written):
    raw = json.loads((written / "config.json").read_text())
    tokenizer = json.loads((written / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    for part in (raw, raw["text_config"]):
        assert part["dtype"] == "float32"
        assert (part["eos_token_id"], part["pad_token_id"]) == (ids["<|im_end|>"], ids["<|endoftext|>"])
    generation = json.loads((written / "generation_config.json").read_text())
    assert generation["eos_token_id"] == ids["<|im_end|>"]


def test_files_that_the_base_has_are_kept_but_for_the_pixel_cap(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    published = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "resample": 3}
    (base / "preprocessor_config.json").write_text(
        json.dumps(published | {"max_pixels": 16777216, "min_pixels": 65536})
    )
    (base / "generation_config.json").write_text('{"top_p": 0.8}')
    config, params, _ = load_model(base)
    save_model(tmp_path / "out", config, params, base, pixels=PIXELS)
    made = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert made == {
        "size": {"shortest_edge": PIXELS[0], "longest_edge": PIXELS[1]},
        "min_pixels": PIXELS[0],
        "max_pixels": PIXELS[1],
        "patch_size": 16,
        "resample": 3,
    }
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"top_p": 0.8}


def widened(path, rows=64):
    """The base with rows of the embedding that no token has, as published checkpoints have them."""
    config, params, _ = load_model(BASE)
    text = dataclasses.replace(config.text, vocab_size=config.text.vocab_size + rows)
    embed = np.concatenate([params["embed"], np.full((rows, text.hidden_size), 9, np.float32)])
    shutil.copytree(BASE, path)
    save_hf(path, dataclasses.replace(config, text=text), {**params, "embed": jax.numpy.asarray(embed)})
    return 1020, config.text.vocab_size + rows  # the base itself has four such rows


def test_ids_that_no_token_has_are_never_sampled(tmp_path):
    first, end = widened(tmp_path / "wide")
    config, params, _ = load_model(tmp_path / "wide")
    assert config.unused_token_ids == tuple(range(first, end))
    device = Device(config, params, EngineConfig(slots=1, context=64, extend_tokens=(16,), image_shapes=((1, 16),)))
    assert set(range(first, end)) <= set(device.forbidden)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_token_id": 7}, r"image_token_id=7, but its tokenizer has 1018 for <\|image_pad\|>"),
        ({"video_token_id": 7}, "video_token_id=7"),
        ({"eos_token_id": 1024}, r"eos_token_id=1024, and no token of that id: vocab_size is 1024\. Correct it"),
        ({"eos_token_id": [1012, 5000]}, "eos_token_id=5000, and no token of that id"),
        ({"pad_token_id": 9999}, "pad_token_id=9999, and no token of that id"),
    ],
)
def test_a_config_of_another_model_than_the_tokenizer_is_refused(tmp_path, change, message):
    shutil.copytree(BASE, tmp_path / "base")
    raw = json.loads((BASE / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(raw | change))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "base")


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(tmp_path):
    shutil.copytree(BASE, tmp_path / "base")
    config, params, _ = load_model(BASE)
    text = dataclasses.replace(config.text, vocab_size=1019)
    save_hf(tmp_path / "base", dataclasses.replace(config, text=text), {**params, "embed": params["embed"][:1019]})
    with pytest.raises(UserError, match=r"a token of id 1019, but config\.json has vocab_size=1019"):
        load_model(tmp_path / "base")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_told_with_its_cure(tmp_path, name):
    shutil.copytree(BASE, tmp_path / "base")
    (tmp_path / "base" / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=rf"{name} is a pointer of Git LFS, not the file itself.*git lfs pull"):
        load_model(tmp_path / "base")


def test_an_adapter_beside_a_model_is_refused_naming_both(tmp_path):
    shutil.copytree(BASE, tmp_path / "base")
    (tmp_path / "base" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a model and an adapter beside it.* move adapter_config\.json out of"):
        load_model(tmp_path / "base")


def test_an_adapter_in_place_of_a_model_is_told_with_its_cure(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds an adapter and no model\. Merge it into its base by `hypereyes export"):
        load_model(tmp_path)
