"""Demonstrations as token records: read on access, and without those that no row holds."""

from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from hypereyes_jax.data import open_examples
from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.files import write_examples
from hypereyes_jax.data.sources.types import BadRow
from hypereyes_jax.data.trajectories import RowLimits, Trajectories, check_fit, text_tokens, unusable, visual_tokens
from hypereyes_jax.errors import UserError
from hypereyes_jax.processing import ChatFormat, PatchedImage
from hypereyes_jax.processing.lengths import episode_tokens

LIMITS = RowLimits(300, 1024, 64 * 1024)


@pytest.fixture(scope="module")
def chat():
    return ChatFormat(AutoTokenizer.from_pretrained(str(resources.files("hypereyes_jax.assets") / "base")))


def example(name, words=1, size=(64, 48), images=1, color="red"):
    shown = [Image.new("RGB", size, color) for _ in range(images)]
    return Example(
        name, "Be wide.", ((*shown, "look " * words), ("found",)), ("<reason>a</reason>", "<answer>b</answer>")
    )


@pytest.fixture
def source(tmp_path):
    def write(*examples):
        write_examples(tmp_path / "d.jsonl", examples)
        return open_examples(tmp_path / "d.jsonl", check=False)

    return write


def test_lengths_without_pixels_are_those_of_the_chunks(source, chat):
    """Against the token record itself, with all its images."""
    for made in (example("a", 7, (640, 480)), example("b", 40, (33, 900), images=3), example("c", images=0)):
        rows = source(made)
        row, media = rows.row(0), rows.media(0)
        expected = episode_tokens(rows[0].chunks(chat), LIMITS.min_pixels, LIMITS.max_pixels)
        assert text_tokens(row, chat) + visual_tokens(row, media, LIMITS) == expected
        check_fit(row, media, chat, replace(LIMITS, tokens=expected))
        with pytest.raises(BadRow, match=f"it has {expected:,} tokens, where a row holds {expected - 1:,}"):
            check_fit(row, media, chat, replace(LIMITS, tokens=expected - 1))


def test_what_fits_by_its_bytes_is_not_tokenised(source, chat, monkeypatch):
    rows = source(example("a"))
    monkeypatch.setattr(chat, "encode", None)  # would fail
    check_fit(rows.row(0), rows.media(0), chat, LIMITS)


def test_strips_long_and_broken_rows_are_named(source, chat, tmp_path):
    rows = source(example("a"), example("strip", size=(1000, 3)), example("long", 400), example("d"))
    found = unusable(rows, range(4), chat, LIMITS)
    assert [(index, error.kind) for index, error in found] == [(1, "image that does not fit"), (2, "too long")]
    assert "d.jsonl, line 2: an image can't be used: image of 1000x3 pixels has an aspect ratio above 200" in str(
        found[0][1]
    )


def broken(path, row):
    """Damages the pixels of a row's picture, which its header does not show."""
    lines = path.read_text().splitlines(keepends=True)
    start = lines[row].index("base64,") + 200
    lines[row] = lines[row][:start] + "AAAAAAAA" + lines[row][start + 8 :]
    path.write_text("".join(lines))


def test_a_row_whose_pixels_are_broken_gives_way_to_the_next_and_is_told_once(source, chat, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    source(*(Example(name, "", ((noise, name),), ("<answer>x</answer>",)) for name in "abc"))
    broken(tmp_path / "d.jsonl", 1)
    broken(tmp_path / "d.jsonl", 2)
    told = []
    trajectories = Trajectories(open_examples(tmp_path / "d.jsonl"), chat, on_bad=told.append)
    for _ in range(2):
        for number in range(3):
            assert np.array_equal(trajectories[number][0].tokens, trajectories[0][0].tokens)
    assert [error.place.number for error in told] == [2, 3]
    with pytest.raises(UserError, match=r"d.jsonl, line 2: an image can't be read"):
        Trajectories(open_examples(tmp_path / "d.jsonl"), chat)[1]


def test_pictures_are_made_patches_of_once_each(source, chat):
    picture = Image.new("RGB", (64, 48))
    rows = open_examples([Example("a", "", ((picture, "x", picture),), ("<answer>b</answer>",))])
    made = []

    def patch(image):
        made.append(image)
        return PatchedImage(np.zeros((4, 12), np.float32), (1, 2, 2))

    (first, _) = Trajectories(rows, chat, patchify=patch)[0]
    assert len(first.images) == 2
    assert all(isinstance(image, PatchedImage) for image in first.images)
