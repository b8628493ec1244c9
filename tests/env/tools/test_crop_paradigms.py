"""Regions cut out by a tool, or by code, before they are searched: the paradigms that grounding is compared with."""

import pytest
from PIL import Image

from hypereyes_jax.env import Question
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode

PICTURE = Image.new("RGB", (100, 50), "red")
PICTURE.paste("green", (50, 0, 100, 50))
ASKED = Question("q", "Which two?", (PICTURE,), ("Chad",))


def call(name, **arguments):
    import json

    return f"<reason>r</reason><tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def python(code):
    return call("python", code=code)


@pytest.mark.parametrize(
    ("paradigm", "cutting"),
    [
        ("llm-crop", call("crop", image_id="img_0", area=[[0, 0, 0.5, 1], [0.5, 0, 1, 1]])),
        ("code-crop", python("show(crop(img_0, 0, 0, 0.5, 1)); show(crop(img_0, 0.5, 0, 1, 1))")),
        ("code-crop", python("w, h = img_0.size\nfor x in [0, w / 2]:\n    show(img_0.crop((x, 0, x + w / 2, h)))")),
    ],
)
async def test_crops_are_a_round_of_their_own_and_are_searched_by_the_ids_that_the_model_is_told(
    library, paradigm, cutting
):
    episode = Episode(ASKED, library, EpisodeConfig(paradigm=paradigm))
    *crops, text = await episode.step(cutting)
    assert [crop.size for crop in crops] == [(50, 50), (50, 50)]
    assert "img_1|img_2" in text
    assert library.calls == 0
    await episode.step(call("image_search", image_id="img_1|img_2"))
    assert [hit.title for i in episode.last_turn.invocations for hit in i.hits] == ["Chad", "Niger"]
    await episode.step("<answer>Chad</answer>")
    assert episode.result().rounds == 2


async def test_boxes_are_refused_where_crops_are_apart_and_the_prompt_says_so(library):
    episode = Episode(ASKED, library, EpisodeConfig(paradigm="llm-crop"))
    assert '"area": a list of boxes [x1, y1, x2, y2], one for each region to cut out.' in episode.system
    assert "to cut out and search" not in episode.system
    (text,) = await episode.step(call("image_search", image_id="img_0", area=[[0, 0, 1, 1]]))
    assert "cut the regions out first" in text
    assert library.calls == 0
    with_both = Episode(ASKED, library, EpisodeConfig())
    assert "crop:" not in with_both.system


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os", "line 1: only cropping is understood"),
        ("x = 1\nimg_0.save('x')", "line 2: only cropping is understood"),
        ("(1).__class__", "only cropping is understood"),
        ("show(img_9)", "no image or value img_9"),
        ("show(crop(img_0, 1, 1, 0, 0))", "empty or outside"),
        ("show(1)", "an image is needed"),
        ("x = 9 * 9 * 9 * 9 * 9 * 9 * 9 * 9", "too large"),
        ("x = 1 / 0", "division by zero"),
        ("for i in range(1000000):\n  x = 1", "runs too long"),
        ("for i in range(40):\n  x = crop(img_0, 0, 0, 1, 1)", "cuts more than 32 regions"),
        ("a, b = (1, 2, 3)", "3 values for 2 names"),
        ("x = 1", "showed no region"),
        ("show(", "no Python"),
        ("x = " + "-" * 2000 + "1", "nests too deeply"),
        ("", "must be Python"),
    ],
)
async def test_code_that_does_more_than_crop_is_refused_with_its_line(library, code, why):
    episode = Episode(ASKED, library, EpisodeConfig(paradigm="code-crop"))
    (text,) = await episode.step(python(code))
    assert why in text


async def test_regions_that_a_turn_does_not_show_are_told(library):
    episode = Episode(ASKED, library, EpisodeConfig(paradigm="code-crop"))
    *crops, text = await episode.step(python("for i in range(40): show(img_0)"))
    assert len(crops) == 32
    assert "the first 32 of 40 regions" in text
