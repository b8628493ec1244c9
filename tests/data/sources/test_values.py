"""Values as people's tables and JSON hold them: numbers, gaps, lists in a text."""

import datetime
import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hypereyes_jax.data import open_questions
from hypereyes_jax.data.files import write_questions
from hypereyes_jax.errors import UserError

NAN = float("nan")


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        (3, ("3",)),
        (2.5, ("2.5",)),
        (["Chad", None, "Tchad"], ("Chad", "Tchad")),
        ([NAN, "Chad"], ("Chad",)),
        ('["Chad", "Tchad"]', ("Chad", "Tchad")),
        ("[1, 2]", ("[1, 2]",)),  # a list of numbers is what an answer may be
        ("['Chad']", ("['Chad']",)),
        (" <answer>Chad</answer> ", ("Chad",)),
        ([1, 2.5, "x", "x"], ("1", "2.5", "x")),
    ],
)
def test_answers_of_many_kinds_are_accepted(lines, answer, accepted):
    assert open_questions(lines({"question": "?", "answer": answer}))[0].answers == accepted


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (NAN, "it needs 'answers'"),
        (float("inf"), "it needs 'answers'"),
        (["", " "], "it needs 'answers'"),
        ([None], "it needs 'answers'"),
        (True, "must be texts, not a bool"),
        ([["Chad"]], "must be texts, not a list"),
        ({"value": "Chad"}, r"must be texts, not a dict; a part of it is named by --columns answers=COLUMN\.PART"),
    ],
)
def test_answers_that_are_none_are_refused(lines, answer, why):
    for row in ({"question": "?", "answer": answer}, {"id": "a", "text": "?", "answers": answer}):
        with pytest.raises(UserError, match=f"line 1: .*{why}") as caught:
            open_questions(lines(row))
        assert "\n" not in str(caught.value)


def test_a_part_of_an_answer_is_named(lines):
    path = lines({"question": "?", "answer": {"value": "Chad", "aliases": ["Tchad"]}})
    assert open_questions(path, {"answers": "answer.value", "more_answers": "answer.aliases"})[0].answers == (
        "Chad",
        "Tchad",
    )


def test_tables_hold_dates_decimals_categories_and_gaps(tmp_path):
    table = pa.table(
        {
            "id": pa.array([7.0, None, NAN]),
            "question": pa.array(["a?", "b?", "c?"]).dictionary_encode(),
            "answer": pa.array([decimal.Decimal("1.50")] * 3),
            "day": pa.array([datetime.date(2020, 1, 2)] * 3),
            "score": pa.array([1.5, NAN, float("inf")]),
        }
    )
    pq.write_table(table, tmp_path / "q.parquet")
    one, two, three = open_questions(tmp_path / "q.parquet")
    assert [each.id for each in (one, two, three)] == ["7", "q-2", "q-3"]
    assert one.answers == ("1.50",)
    assert [each.meta["score"] for each in (one, two, three) if "score" in each.meta] == [1.5]
    assert one.meta["day"] == "2020-01-02"


@pytest.mark.parametrize("meta", ['{"n": NaN, "m": [Infinity, {"k": -Infinity}], "e": 1e999}', '"{\\"n\\": NaN}"'])
def test_a_number_that_is_none_is_null_in_meta_and_can_be_written_again(tmp_path, meta):
    path = tmp_path / "q.jsonl"
    path.write_text(f'{{"id": "a", "text": "?", "answers": ["x"], "meta": {meta}}}\n')
    (question,) = open_questions(path)
    assert question.meta["n"] is None
    write_questions(tmp_path / "again.jsonl", [question])
    json.loads((tmp_path / "again.jsonl").read_text(), parse_constant=pytest.fail)
    foreign = tmp_path / "f.jsonl"
    foreign.write_text('{"question": "?", "answer": "x", "extra": [1, NaN], "info": {"s": 1e999}}\n')
    assert open_questions(foreign)[0].meta == {"extra": [1, None], "info": {"s": None}}


def test_rows_of_a_pandas_table_hold_numpys_values():
    rows = [
        {"id": np.int64(3), "question": np.str_("?"), "answer": np.array(["a", "b"], object), "n": np.float32(0.5)},
        {"id": np.float64(NAN), "question": "?", "answer": np.int64(5), "n": np.float64(NAN)},
    ]
    one, two = open_questions(rows)
    assert (one.id, one.answers, one.meta) == ("3", ("a", "b"), {"n": 0.5})
    assert (two.id, two.answers, two.meta) == ("row-2", ("5",), {})
    json.dumps(one.meta)


def test_ids_that_are_blank_are_those_of_their_places(lines):
    path = lines({"id": "", "question": "?", "answer": "a"}, {"id": 5.0, "question": "?", "answer": "a"})
    assert open_questions(path).ids == ("rows-1", "5")
    with pytest.raises(UserError, match="line 1: its 'id' must be a text or an integer, not a float"):
        open_questions(lines({"id": 1.5, "question": "?", "answer": "a"}))
    with pytest.raises(UserError, match="line 1: it needs 'id'"):
        open_questions(lines({"id": "", "text": "?", "answers": ["a"]}))


def test_pictures_that_are_blank_are_none(lines):
    for value in ("", None, [""], [], [None]):
        assert open_questions(lines({"question": "?", "answer": "a", "image": value}))[0].images == ()


def test_a_link_to_a_folder_above_does_not_repeat_the_files_of_a_pattern(lines, tmp_path):
    lines({"question": "?", "answer": "a"}, name="a.jsonl")
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(open_questions(f"{tmp_path}/**/*.jsonl")) == 1


@pytest.mark.parametrize("pattern", ["", "/*", "/**"])
def test_what_programs_leave_beside_data_is_not_read(lines, tmp_path, pattern):
    path = lines({"question": "?", "answer": "a"}, name="a.jsonl")
    for name in (
        ".DS_Store",
        "_SUCCESS",
        "._a.jsonl",
        "pic.png",
        "dataset_infos.json",
        ".cache/b.jsonl",
        "__MACOSX/c.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    with open_questions(f"{tmp_path}{pattern}") as questions:
        assert [questions.place(index).file for index in range(len(questions))] == [str(path)]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("", "the source is an empty text"),
        ("x" * 5000, "there is no xxx"),
        ("json:loads", "can't be called without arguments"),
        ("a\0b", "there is no a"),
    ],
)
def test_what_is_no_place_is_one_sentence(source, why):
    with pytest.raises(UserError, match=why) as caught:
        open_questions(source)
    assert len(str(caught.value)) < 700
