"""Questions by their content. The digests are pinned: files that runs go on from are keyed by them."""

from dataclasses import replace

import pytest
from PIL import Image

from hypereyes_jax.data.question_digest import attempt_key, try_key
from hypereyes_jax.env.types import Question

QUESTION = Question("q", "Which flag?", (Image.new("RGB", (4, 2), (1, 2, 3)),), ("Chad", "Tchad"))


def test_the_keys_are_those_of_the_files_that_there_are():
    assert attempt_key(QUESTION) == "3f6de73851b25ec35c3dd817"
    assert try_key(QUESTION) == "d35db03e306ea536a2de1d000bf7205b898be0e5ca636b427ef9c4fbbeab6c45"


@pytest.mark.parametrize("key", [attempt_key, try_key])
def test_a_key_tells_content_and_nothing_else(key):
    others = [
        replace(QUESTION, text="Which country?"),
        replace(QUESTION, answers=("Chad",)),
        replace(QUESTION, images=()),
        replace(QUESTION, images=(Image.new("RGB", (2, 4), (1, 2, 3)),)),
    ]
    assert len({key(each) for each in [QUESTION, *others]}) == 5
    assert key(replace(QUESTION, id="x", kind="y")) == key(QUESTION)
