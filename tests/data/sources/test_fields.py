"""What columns mean is found once for rows that have the same ones; a row beside others is read as it is alone."""

import random

import pytest

from hypereyes_jax.data import open_questions
from hypereyes_jax.data.sources import columns
from hypereyes_jax.data.sources.columns import Fields
from hypereyes_jax.errors import UserError

ROWS = [
    {"question": "one?", "answer": "1"},
    {"question": None, "query": "two?", "answer": "2"},  # the same columns may hold nothing in another row
    {"question": "three?", "query": "another", "answer": "3"},
    {"answer": "4", "question": "four?"},
    {"prompt": "five?", "gt": None, "label": 5, "topic": "books"},
    {"prompt": "six?", "gt": 6, "label": 5, "topic": None},
    {"text": "seven?", "answers": ["7"], "id": "seven"},
    {"text": "eight?", "answers": ["8"], "id": "eight", "category": "books", "img": None},
    {"messages": [{"role": "user", "content": "nine?"}, {"role": "assistant", "content": "<answer>9</answer>"}]},
    {"messages": [{"role": "user", "content": "no"}], "question": "ten?", "answer": "10"},
    {"question": "eleven?", "answer": "11", "tool_call": 2, "parallel": [2, 1]},
    {"question": "twelve?", "answer": "12", "tool_call": None, "ref_rounds": 1, "parallel": [1]},
]


def contents(question):
    return question.text, question.answers, question.kind, question.meta


@pytest.mark.parametrize("known", [1, 3, 1024])
def test_a_row_is_read_beside_others_as_it_is_alone(lines, monkeypatch, known):
    monkeypatch.setattr(columns, "_KNOWN_LAYOUTS", known)
    alone = [contents(open_questions(lines(row))[0]) for row in ROWS]
    assert [text.removesuffix("?") for text, *_ in alone][:3] == ["one", "two", "three"]
    order = [number for number in range(len(ROWS)) for _ in range(3)]
    random.Random(0).shuffle(order)
    rows = [ROWS[number] | ({"id": place} if "id" in ROWS[number] else {}) for place, number in enumerate(order)]
    with open_questions(lines(*rows)) as questions:
        assert [contents(question) for question in questions] == [alone[number] for number in order]


def test_layouts_that_are_kept_are_few():
    fields = Fields({})
    for number in range(3000):
        fields.layout({"question": "?", f"extra_{number}": 1})
    assert len(fields._layouts) <= columns._KNOWN_LAYOUTS


def test_numbered_pictures_are_shown_by_number_and_those_that_are_null_left_out(lines, pictures):
    names = {"img_10": "pics/2.png", "image_2": None, "img_1": "pics/0.png", "image_x": "no", "image_3": "pics/1.png"}
    (question,) = open_questions(lines({"question": "?", "answer": "a"} | names))
    assert [image.getpixel((0, 0)) for image in question.images] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_an_index_column_of_verl_is_the_id_only_if_it_is_named_so(lines):
    row = {"index": 7, "prompt": [{"role": "user", "content": "?"}], "reward_model": {"ground_truth": "a"}}
    path = lines(row | {"extra_info": {"index": 9}})
    assert open_questions(path).ids == ("9",)
    assert open_questions(path, {"id": "index"}).ids == ("7",)


@pytest.mark.parametrize("tool_call", ["Infinity", "1e999", "NaN", '"x"', "-1", "{}"])
def test_a_reference_that_is_no_number_of_rounds_is_refused_or_none(tmp_path, tool_call):
    path = tmp_path / "q.jsonl"
    path.write_text(f'{{"question": "?", "answer": "a", "tool_call": {tool_call}, "parallel": [1]}}\n')
    if tool_call == '"x"':  # a conversation's tool call
        assert open_questions(path).references == {}
    else:
        with pytest.raises(UserError, match=r"line 1: 'tool_call' and 'parallel' must not be|'tool_call' must be a"):
            open_questions(path)


def test_columns_of_a_programs_rows_have_names_that_are_texts():
    with pytest.raises(UserError, match="row 1: the names of its columns must be strings, not 1"):
        open_questions([{1: "x", "question": "?", "answer": "a"}])
