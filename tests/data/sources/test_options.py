"""Questions of multiple choice in the layouts that they are published in."""

import pytest

from hypereyes_jax.data import open_questions
from hypereyes_jax.errors import UserError

SHOWN = "Which?\nA. red\nB. blue"


@pytest.mark.parametrize(
    "columns",
    [
        {"options": ["A. red", "B. blue"]},
        {"options": ["(A) red", "(B) blue"]},
        {"choices": ["red", "blue"]},
        {"options": '["red", "blue"]'},
        {"options": "['red', 'blue']"},  # MMMU's
        {"Choices": ["red", "blue"]},
        {"options": {"A": "red", "B": "blue"}},
        {"choices": {"label": ["A", "B"], "text": ["red", "blue"]}},  # ARC's
        {"A": "red", "B": "blue", "C": None, "D": ""},
    ],
)
def test_options_are_shown_and_the_right_one_is_an_answer(columns):
    with open_questions([{"question": "Which?", "answer": "B", **columns}]) as (question,):
        assert question.text == SHOWN
        assert question.answers == ("blue", "B")


@pytest.mark.parametrize("options", [["red", "blue"], ["0", "7"], ["7", "1"]])
def test_a_whole_number_counts_the_options_from_zero(options):
    with open_questions([{"question": "Which?", "answer": 1, "choices": options}]) as (question,):
        assert question.text == f"Which?\nA. {options[0]}\nB. {options[1]}" or options[1] == "1"
        assert question.answers[0] == options[1]


@pytest.mark.parametrize("answer", [2, 7, -1, "0", True])
def test_a_number_of_no_option_is_an_answer_like_others(answer):
    if answer is True:
        with pytest.raises(UserError, match="must be texts, not a bool"):
            open_questions([{"question": "Which?", "answer": answer, "choices": ["red", "7"]}])
        return
    with open_questions([{"question": "Which?", "answer": answer, "choices": ["red", "7"]}]) as (question,):
        assert (question.text, question.answers) == ("Which?", (str(answer),))


def test_a_number_that_may_be_two_options_is_refused():
    with pytest.raises(
        UserError, match="its answer 1 is one of its options, and the number of another one, '4': write"
    ):
        open_questions([{"question": "Which?", "answer": 1, "choices": ["1", "4"]}])


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
