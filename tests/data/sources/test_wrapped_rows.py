"""A JSON object that is there for a list of rows is read as the list; one that is a row stays a row."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.sources import json_rows
from hypereyes_jax.data.sources.json_rows import StableFile
from hypereyes_jax.data.sources.wrapped_rows import top_level
from hypereyes_jax.errors import UserError

ROWS = [{"id": str(number), "question": f'q {number} "]}}", {{', "answer": "a\\"} for number in range(3)]
TALK = {"conversations": [{"from": "human", "value": "q?"}, {"from": "gpt", "value": "<answer>a</answer>"}]}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [1, 7, 4 << 20])
@pytest.mark.parametrize(
    "around",
    [
        lambda rows: {"data": rows},
        lambda rows: {"version": "2.0", "info": {"data": [1, [2]]}, "questions": rows},
        lambda rows: {"train": rows, "type": "vqa", "tags": ["a", "b"], "none": []},
    ],
)
def test_the_rows_of_a_list_are_read(around, block, indent, tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "_BLOCK", block)
    path = tmp_path / "rows.json"
    path.write_text("\ufeff" + json.dumps(around(ROWS), indent=indent) + "\n\n")
    with open_questions(path) as questions:
        assert [(q.id, q.text, q.answers) for q in questions] == [(r["id"], r["question"], ("a\\",)) for r in ROWS]
        assert str(questions.place(2)) == f"{path}, row 3"


def test_demonstrations_are_read_alike(tmp_path):
    path = tmp_path / "talks.json"
    path.write_text(json.dumps({"data": [TALK, TALK]}))
    assert len(open_examples(path)) == 2


def test_a_row_that_holds_such_a_list_stays_a_row(tmp_path, lines):
    row = ROWS[0] | {"data": [{"question": "not this", "answer": "x"}]}
    assert list(open_questions(lines(row)).ids) == ["0"]
    assert list(open_questions(lines(row, ROWS[1])).ids) == ["0", "1"]
    assert len(open_examples(lines(TALK | {"data": [{"x": 1}]}))) == 1
    named = {"id": "n", "q": "What?", "gt": "x", "items": [{"question": "not this"}]}
    assert open_questions(lines(named), {"text": "q", "answers": "gt"})[0].text == "What?"


def test_lists_in_several_objects_are_rows_of_no_wrapper(lines):
    with pytest.raises(UserError, match="line 1"):
        open_questions(lines({"data": ROWS}, {"data": ROWS}))


def test_a_bad_row_in_a_list_is_named(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"data": [ROWS[0], {"id": "x"}]}))
    with pytest.raises(UserError, match=r"rows\.json, row 2"):
        open_questions(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
        max_leaves=20,
    ).map(lambda value: {"a": value, "b": [{}]})
)
def test_lists_of_objects_are_told_from_all_other_values(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "o.json"
    path.write_text(json.dumps(value))
    file = StableFile(path)
    top = top_level(file, 0)
    assert top.alone
    assert top.names == list(value)
    expected = {k: v for k, v in value.items() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)}
    assert {k: [json.loads(file.read(*span)) for span in spans] for k, spans in top.lists.items()} == expected
    file.close()
