"""One place makes a search result: finite numbers and texts, whatever a service sends."""

import json

import numpy as np
import pytest
from PIL import Image

from hypereyes_jax.env import Episode, Question, SearchHit
from hypereyes_jax.env.search.backends.retriever import read_retrieval


@pytest.mark.parametrize(
    ("score", "read"),
    [
        (0.9, 0.9),
        (1, 1.0),
        (np.float32(0.5), 0.5),
        (float("inf"), 0.8),
        (float("-inf"), 0.8),
        (float("nan"), 0.8),
        (int("9" * 400), 0.8),
        ("high", 0.8),
        ("0.9", 0.8),
        (None, 0.8),
        (True, 0.8),
        ([1], 0.8),
    ],
)
def test_a_score_is_a_finite_number(score, read):
    hit = SearchHit("t", "c", score)
    assert hit.score == read
    assert type(hit.score) is float
    json.dumps([hit.score], allow_nan=False)


def test_texts_are_texts_that_can_be_encoded():
    hit = SearchHit("a\ud83d", None, 0.5, {"x": 1})
    assert (hit.title, hit.content, hit.url) == ("a?", "", "")
    assert SearchHit(1984, "c", 0.5).title == "1984"


@pytest.mark.parametrize(
    ("document", "title", "content"),
    [
        ({"contents": '"Chad"\nA country.\nIn Africa.'}, "Chad", "A country.\nIn Africa."),
        ({"title": "Chad", "contents": '"Chad"\nA country.'}, "Chad", "A country."),
        ({"title": "Chad", "text": "A country."}, "Chad", "A country."),  # of a text without its title no line is lost
        ({"title": "Chad", "text": "A country.\nIn Africa."}, "Chad", "A country.\nIn Africa."),
        ({"title": '"Chad"', "contents": '"Chad"\nA country.'}, "Chad", "A country."),
        ({"title": None, "content": "Chad\nA country."}, "Chad", "A country."),
    ],
)
def test_a_document_is_shown_whole(document, title, content):
    for row in (document, {"document": document, "score": 0.9}):
        (hit,) = read_retrieval({"result": [[row]]}, "host")
        assert (hit.title, hit.content) == (title, content)


async def test_a_reply_with_impossible_scores_is_shown_and_recorded():
    rows = [
        {"document": {"contents": "Chad\nCountry."}, "score": score} for score in (float("inf"), int("9" * 400), "x")
    ]

    class Service:
        async def text_search(self, query, k):
            return read_retrieval({"result": [rows]}, "host")

        async def image_search(self, image, k):
            return []

    episode = Episode(Question("q", "?", (), ("a",)), Service())
    (text,) = await episode.step('<tool_call>{"name": "text_search", "arguments": {"input": ["a"]}}</tool_call>')
    assert text.count("(0.80) Chad: Country.") == 3


@pytest.mark.parametrize(
    ("images", "answers", "why"),
    [((), "Paris", "answers of a Question"), (Image.new("L", (8, 8)), ("Paris",), "images")],
)
def test_a_question_with_a_text_for_its_answers_is_refused(images, answers, why):
    """Each letter of it would be accepted."""
    with pytest.raises(TypeError, match=f"{why}.* must be a tuple"):
        Question("q", "?", images, answers)
