"""Rows of a text and answers alone have a short way to be read, which must give what the long way gives."""

import itertools

import pytest

from hypereyes_jax.data.sources.columns import Fields
from hypereyes_jax.data.sources.question_rows import question_rows
from hypereyes_jax.data.sources.types import BadRow

TEXTS = ["Who?", " Who? ", "", "  ", "<image>Who?", "A < B?", None, 5, ["Who?"]]
ANSWERS = ["Ann", " Ann ", "", "B", "[1, 2]", '["Ann", "Bob"]', "<answer>Ann</answer>", None, 7, 1.5, True, [], ["Ann"]]
ANSWERS += [["Ann", " Ann", "Bob"], ["Ann", None, 3], ["", "Ann"], ["A"], ["<b>"], {"target": ["Ann"]}, {"a": 1}]
OTHERS = [
    {},
    {"id": 3},
    {"id": "x", "category": "books"},
    {"id": None, "type": ["a"], "note": "n" * 3000, "more": {"a": float("nan")}},
    {"id": 2.0, "options": ["red", "blue"], "B": "blue"},
    {"id": True},
    {"uid": "u", "idx": 4},
    {"tool_call": 1, "parallel": [2]},
    {"image": None},
    {"extra_info": {"question": "What?"}},
]


def outcome(row, fields):
    try:
        return question_rows(row, fields, "default")
    except BadRow as error:
        return error.kind, error.why


@pytest.mark.parametrize(
    ("text", "answers"), [("question", "answer"), ("text", "answers"), ("query", "golden_answers")]
)
def test_both_ways_read_the_same(text, answers):
    counts = {True: 0, False: 0}
    for asked, accepted, others in itertools.product(TEXTS, ANSWERS, OTHERS):
        row = {text: asked, answers: accepted, **others}
        short, long = Fields({}), Fields({})
        counts[short.layout(row).short is not None] += 1
        long.layout(row).short = None
        assert outcome(row, short) == outcome(row, long), row
    assert counts[False] > 0
    assert counts[True] > (0 if text == "text" else 500)
