"""Questions of multiple choice in the layouts that they are published in."""

import pytest

from hypereyes_jax.data import open_questions

SHOWN = "Which?\nA. red\nB. blue"


@pytest.mark.parametrize(
    "columns",
    [
        {"options": ["A. red", "B. blue"]},
        {"options": ["(A) red", "(B) blue"]},
        {"choices": ["red", "blue"]},
        {"options": '["red", "blue"]'},
        {"options": {"A": "red", "B": "blue"}},
        {"A": "red", "B": "blue", "C": None, "D": ""},
    ],
)
def test_options_are_shown_and_the_right_one_is_an_answer(columns):
    with open_questions([{"question": "Which?", "answer": "B", **columns}]) as (question,):
        assert question.text == SHOWN
        assert question.answers == ("blue", "B")


@pytest.mark.parametrize(
    ("row", "text", "answers"),
    [
        ({"question": SHOWN, "answer": "A", "options": ["red", "blue"]}, SHOWN, ("red", "A")),  # shown already
        ({"question": "Which?", "answer": "red", "options": ["red", "blue"]}, "Which?", ("red",)),
        ({"question": "Which vitamin?", "answer": "C"}, "Which vitamin?", ("C",)),
        ({"question": "Which?", "answer": "E", "options": ["red", "blue"]}, "Which?", ("E",)),
    ],
)
def test_other_questions_stay_as_they_are(row, text, answers):
    with open_questions([row]) as (question,):
        assert (question.text, question.answers) == (text, answers)
