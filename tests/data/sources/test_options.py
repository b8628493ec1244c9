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
        {"options": ["a. red", "b. blue"]},
        {"options": {"a": "red", "b": "blue"}},
        {"choices": ["red", "blue"]},
        {"options": '["red", "blue"]'},
        {"options": "['red', 'blue']"},  # MMMU's
        {"Choices": ["red", "blue"]},
        {"options": "A. red\nB. blue\n"},
        {"options": [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}]},
        {"options": [{"key": "A", "value": "red"}, {"key": "B", "value": "blue"}]},
        {"options": {"A": "red", "B": "blue"}},
        {"choices": {"label": ["A", "B"], "text": ["red", "blue"]}},  # ARC's
        {"A": "red", "B": "blue", "C": None, "D": ""},
        {"options": "A. red B. blue"},
        {"options": "(A) red; (B) blue"},
        {"options": "red | blue"},
        {"options": [{"id": "A", "text": "red"}, {"id": "B", "text": "blue"}]},
        {"options": [{"letter": "A", "content": "red"}, {"letter": "B", "content": "blue"}]},
        {"options": [{"text": "red", "correct": False}, {"text": "blue", "correct": True}]},
        {"answer_choices": ["red", "blue"]},
        {"choice_a": "red", "choice_b": "blue", "choice_c": None},  # SEED-Bench's
        {"optionA": "red", "optionB": "blue"},
    ],
)
def test_options_are_shown_and_the_right_one_is_an_answer(columns):
    with open_questions([{"question": "Which?", "answer": "B", **columns}]) as (question,):
        assert question.text == SHOWN
        assert question.answers == ("blue", "B")


@pytest.mark.parametrize(
    "answer", ["(B)", "B.", "B)", "b", "B. blue", "(B) blue", "Option B", "The correct answer is B."]
)
def test_a_letter_is_known_however_it_is_written(answer):
    with open_questions([{"question": "Which?", "answer": answer, "options": ["red", "blue"]}]) as (question,):
        assert (question.text, question.answers) == (SHOWN, ("blue", "B"))


def test_initials_of_names_are_no_letters_of_options():
    names = ["D. Trump", "B. Obama", "J. Biden"]
    with open_questions([{"question": "Who?", "answer": "B", "options": names}]) as (question,):
        assert question.text == "Who?\nA. D. Trump\nB. B. Obama\nC. J. Biden"
        assert question.answers == ("B. Obama", "B")


@pytest.mark.parametrize("answer", ["AB", "A, B", "B; A", ["A", "B"]])
def test_several_options_at_once_are_refused(answer):
    with pytest.raises(
        UserError, match="is several options at once, of which each would be taken for right: write one"
    ):
        open_questions([{"question": "Which?", "answer": answer, "options": ["red", "blue", "lime"]}])


@pytest.mark.parametrize("options", [["red", "blue"], ["0", "7"], ["7", "1"]])
def test_a_whole_number_counts_the_options_from_zero(options):
    with open_questions([{"question": "Which?", "answer": 1, "choices": options}]) as (question,):
        assert question.text == f"Which?\nA. {options[0]}\nB. {options[1]}" or options[1] == "1"
        assert question.answers[0] == options[1]


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"options": {"1": "red", "2": "blue"}}, 2),
        ({"options": {"1": "red", "2": "blue"}}, "2"),
        ({"option1": "red", "option2": "blue"}, "2"),  # WinoGrande's
        ({"options": ["1. red", "2. blue"]}, "2"),
    ],
)
def test_a_number_beside_an_option_counts_as_it_is_written(columns, answer):
    with open_questions([{"question": "Which?", "answer": answer, **columns}]) as (question,):
        assert (question.text, question.answers) == ("Which?\n1. red\n2. blue", ("blue", "2"))


@pytest.mark.parametrize("answer", [7, "7", "lime", "1990"])
def test_the_text_of_an_option_and_other_words_are_answers_like_others(answer):
    with open_questions([{"question": "Which?", "answer": answer, "choices": ["red", "7"]}]) as (question,):
        assert (question.text, question.answers) == ("Which?", (str(answer),))


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"choices": ["red", "lime"]}, 2),  # do they count from 1?
        ({"choices": ["red", "lime"]}, -1),  # withheld
        ({"choices": ["red", "lime"]}, "1"),
        ({"choices": ["red", "lime"]}, "E"),
        ({"choices": ["red", None, "lime"]}, "B"),
        ({"choices": "red, lime"}, "B"),
        ({"choices": [f"colour {i}" for i in range(30)]}, "B"),
        ({"option_a": "red", "option_b": "lime"}, "C"),
    ],
)
def test_a_letter_or_number_of_no_option_is_refused(columns, answer):
    with pytest.raises(UserError, match=f"its answer '{answer}' names none of its .* options as they are read: write"):
        open_questions([{"question": "Which?", "answer": answer, **columns}])


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
        ({"question": "Which?", "answer": "E", "options": []}, "Which?", ("E",)),
        ({"question": "Which?", "answer": "AC", "options": ["AC", "DC", "none"]}, "Which?", ("AC",)),
        ({"question": "Which?", "answer": "AC", "options": None}, "Which?", ("AC",)),
        ({"question": "Which?", "answer": "BBC", "options": ["x", "y", "z"]}, "Which?", ("BBC",)),
    ],
)
def test_other_questions_stay_as_they_are(row, text, answers):
    with open_questions([row]) as (question,):
        assert (question.text, question.answers) == (text, answers)
