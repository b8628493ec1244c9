"""Values as people's tables and JSON hold them: numbers, gaps, lists in a text."""

import datetime
import decimal
import json
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.files import write_questions
from hypereyes_jax.errors import UserError

NAN = float("nan")


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        (3, ("3",)),
        (2.5, ("2.5",)),
        (1984.0, ("1984",)),  # of a column of whole numbers with gaps
        (["nan", "Chad", "<NA>"], ("Chad",)),  # of gaps that pandas made texts
        (["Chad", None, "Tchad"], ("Chad", "Tchad")),
        ([NAN, "Chad"], ("Chad",)),
        ('["Chad", "Tchad"]', ("Chad", "Tchad")),
        ("[1, 2]", ("[1, 2]",)),  # a list of numbers is what an answer may be
        ("['Chad', \"N'Djamena\"]", ("Chad", "N'Djamena")),  # as pandas writes a list to CSV
        ("['Chad' 'Tchad']", ("Chad", "Tchad")),  # and an array
        ("[Chad]", ("[Chad]",)),
        ({"value": "Chad", "aliases": ["Tchad"], "type": "x"}, ("Chad", "Tchad")),  # TriviaQA's
        ({"text": ["Chad", "Chad"], "answer_start": [1, 9]}, ("Chad",)),  # SQuAD's
        ([{"answer": "Chad", "answer_id": 1}, {"answer": "Tchad", "answer_id": 2}], ("Chad", "Tchad")),  # VQA's
        ('{"target": ["Chad", "Tchad"]}', ("Chad", "Tchad")),  # an object in a text, as tables without objects have it
        ('{"name": "Chad"}', ('{"name": "Chad"}',)),  # of which no part is known to be the answer
        ('[{"answer": "Chad"}, {"answer": "Tchad"}]', ("Chad", "Tchad")),
        (True, ("Yes", "True")),  # BoolQ's
        (False, ("No", "False")),
        (" <answer>Chad</answer> ", ("Chad",)),
        ([1, 2.5, "x", "x"], ("1", "2.5", "x")),
    ],
)
def test_answers_of_many_kinds_are_accepted(lines, answer, accepted):
    assert open_questions(lines({"question": "?", "answer": answer}))[0].answers == accepted


def test_answers_as_search_r1_and_flashrag_list_them_are_accepted():
    truth = {"ground_truth": {"target": ["Oslo", "Kristiania"]}, "style": "rule"}
    verl = {"prompt": [{"role": "user", "content": "Which?"}], "reward_model": truth, "data_source": "nq"}
    flash = {"id": "1", "question": "Which?", "golden_answers": ["Oslo", "Kristiania"]}
    with open_questions([verl]) as one, open_questions([flash]) as other:
        assert one[0].answers == other[0].answers == ("Oslo", "Kristiania")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (NAN, "it needs 'answers'"),
        (float("inf"), "it needs 'answers'"),
        (["", " "], "it needs 'answers'"),
        ([None], "it needs 'answers'"),
        ([["Chad"]], "must be strings, not a list"),
        ({"name": "Chad"}, r"must be strings, not a dict; a part of it is named by --columns answers=COLUMN\.PART"),
        (
            {"text": "Chad", "value": 7},
            r"must be strings, not a dict; a part of it is named by --columns answers=COLUMN\.",
        ),
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
    with pytest.raises(UserError, match="line 1: its 'id' must be a string or an integer, not a float"):
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
        ("~no-such-user/x", "there is no ~no-such-user/x"),
    ],
)
def test_what_is_no_place_is_one_sentence(source, why):
    with pytest.raises(UserError, match=why) as caught:
        open_questions(source)
    assert len(str(caught.value)) < 700


def _table(tmp_path, kind, **columns):
    table = pa.table(columns)
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_texts_of_a_table_that_are_not_in_utf_8_cost_their_rows_only(tmp_path, kind):
    offsets = pa.array([0, 2, 4, 6], pa.int32()).buffers()[1]
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"ab\xff\xfeyz")])
    path = _table(tmp_path, kind, question=texts, answer=["1", "2", "3"])
    with pytest.raises(UserError, match=r"row 2: a string in it is not in UTF-8"):
        open_questions(path)
    assert [question.text for question in open_questions(path, bad_rows="skip")] == ["ab", "yz"]


def test_times_that_python_has_no_value_for_cost_their_rows_only(tmp_path):
    when = pa.array([0, 2**62], pa.timestamp("s"))
    path = _table(tmp_path, "arrow", question=["a", "b"], answer=["1", "2"], when=when)
    with pytest.raises(UserError, match=r"row 2: a value in it can't be read, as of a time out of range"):
        open_questions(path)
    assert open_questions(path, bad_rows="skip").ids == ("rows-1",)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_texts_in_a_binary_column_are_told_from_texts(tmp_path, kind):
    with pytest.raises(UserError, match=r"row 1: it needs 'question', a string, not bytes \(a column of texts must be"):
        open_questions(_table(tmp_path, kind, question=[b"a"], answer=[b"1"]))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_numbers_of_classes_are_read_as_the_names_that_datasets_notes(tmp_path, kind):
    label = {"names": ["wren", "robin"], "_type": "ClassLabel"}
    features = {"answer": label, "other": {"feature": label, "_type": "List"}, "question": {"dtype": "string"}}
    schema = pa.schema(
        [("question", pa.string()), ("answer", pa.int64()), ("other", pa.list_(pa.int64()))],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [("a", 1, [0, -1]), ("b", 0, None), ("c", -1, [])]
    table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), schema) as writer:
            writer.write_table(table)
    questions = open_questions(path, bad_rows="skip")  # -1 marks what has no label
    assert [question.answers for question in questions] == [("robin",), ("wren",)]
    assert questions[0].meta == {"other": ["wren", None]}


def test_two_columns_of_one_name_are_refused(tmp_path):
    columns = [pa.array(["a"]), pa.array(["1"]), pa.array(["2"])]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_arrays(columns, names=["question", "answer", "answer"]), path)
    with pytest.raises(UserError, match=r"has two columns of the name 'answer'"):
        open_questions(path)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_picture_without_bytes_and_path_is_none(tmp_path, kind, red):
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": red, "path": None}, {"bytes": None, "path": None}, None]
    path = _table(tmp_path, kind, question=["a", "b", "c"], answer=["1"] * 3, image=pa.array(cells, picture))
    assert [len(question.images) for question in open_questions(path)] == [1, 0, 0]
    lists = _table(tmp_path, kind, question=["a"], answer=["1"], images=pa.array([cells], pa.list_(picture)))
    assert [len(question.images) for question in open_questions(lists)] == [1]


def test_a_column_with_a_dot_in_its_name_is_named(lines, tmp_path):
    named = {"text": "my.question", "answers": "a"}
    assert open_questions(lines({"my.question": "?", "a": "1"}), named)[0].text == "?"
    table = tmp_path / "rows.csv"
    table.write_text("my.question,a\n?,1\n")
    assert open_questions(table, named)[0].text == "?"


@pytest.mark.parametrize(
    ("candidates", "accepted"),
    [("null", ("A",)), ('"B"', ("A", "B")), ('["B", 5]', ("A", "B", "5")), ("B, C", ("A", "B, C")), ("[]", ("A",))],
)
def test_further_answers_of_verl_are_json_in_a_text(lines, candidates, accepted):
    row = {"prompt": [{"role": "user", "content": "?"}]}
    row["reward_model"] = {"ground_truth": "A", "candidate_answers": candidates}
    assert open_questions(lines(row))[0].answers == accepted


def test_columns_of_verl_may_be_json_in_a_text(lines):
    row = {
        "prompt": json.dumps([{"role": "user", "content": "Who?"}]),
        "reward_model": json.dumps({"ground_truth": "A", "style": "rule"}),
        "extra_info": json.dumps({"index": 7, "question": "Who is it?", "tool_call": 2, "parallel": "[1, 2]"}),
    }
    with open_questions(lines(row)) as questions:
        assert (questions[0].text, questions[0].answers, questions.ids) == ("Who is it?", ("A",), ("7",))
        assert questions.references == {"7": (2, 3)}
    plain = {"prompt": "Who?", "reward_model": {"ground_truth": "A"}}
    assert [(q.text, q.answers) for q in open_questions(lines(plain))] == [("Who?", ("A",))]


def test_pictures_in_a_list_as_pandas_writes_it_to_csv(pictures):
    path = pictures / "rows.csv"
    path.write_text("question,answer,images\n?,1,\"['pics/0.png', 'pics/1.png']\"\n")
    assert len(open_questions(path)[0].images) == 2


@pytest.mark.parametrize("extra", ["[" * 900 + "]" * 900, '{"a":' * 150 + "1" + "}" * 150])
def test_values_that_nest_too_deep_are_one_sentence(tmp_path, extra):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "?", "answer": "1", "extra": ' + extra + "}\n")
    with pytest.raises(UserError, match="line 1: its lists and objects nest in more than 100 levels"):
        open_questions(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"question": "?", "answer": "1"},\n', "line 1: a comma follows its JSON"),
        ('{"question": "?", "answer": "1"}\r{"question": "?", "answer": "1"}\r', "its rows end with carriage returns"),
        ("question,answer\r?,1\r", "the lines of .* end with carriage returns alone"),
        ('{"question": ["a", "b"], "answer": ["1", "2"]}', "is a whole column in one row"),
    ],
)
def test_usual_slips_in_text_files_are_told_by_their_cause(tmp_path, text, why):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode())
    with pytest.raises(UserError, match=why):
        open_questions(path)


@pytest.mark.parametrize("value", ["[]", "null", '{"splits": 5}', '{"splits": [5]}', '{"splits": ["../x"]}'])
def test_what_datasets_notes_of_splits_is_checked(tmp_path, value):
    (tmp_path / "dataset_dict.json").write_text(value)
    with pytest.raises(UserError, match=r"dataset_dict\.json (is damaged|lists no splits)"):
        open_questions(tmp_path)


@pytest.mark.parametrize("value", ["[]", '{"_data_files": []}', '{"_data_files": [{"filename": "../rows.jsonl"}]}'])
def test_what_datasets_notes_of_files_is_checked(tmp_path, lines, value):
    lines({"question": "?", "answer": "1"})
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text(value)
    with pytest.raises(UserError, match=r"state\.json (is damaged|lists no files)"):
        open_questions(tmp_path / "saved")


class Rows:
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise RuntimeError("gone")


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: pytest.importorskip("pandas").DataFrame(rows, index=["x", "y"]),
        pa.Table.from_pylist,
        lambda rows: pytest.importorskip("datasets").Dataset.from_list(rows),
        tuple,
    ],
)
def test_a_table_in_memory_is_a_sequence_of_its_rows(make):
    rows = [{"Question": "?", "answer": "a", "n": 1}, {"Question": "??", "answer": "b", "n": 2}]
    with open_questions(make(rows)) as questions:
        assert [(question.text, question.answers) for question in questions] == [("?", ("a",)), ("??", ("b",))]
        assert questions[1].meta == {"n": 2}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ({"train": [1], "test": [2]}, "is a dict, where a sequence of rows .* give one of them: 'train', 'test'"),
        ((row for row in ()), "is a generator, where a sequence of rows is needed"),
        ({1, 2}, "is a set, where a sequence"),
        (b"[]", "is a bytes, where a sequence"),
        (
            Rows(),
            r"the Rows has 2 rows, and it could not make row 1: RuntimeError: gone \(.*test_values\.py, line \d+\)",
        ),
    ],
)
def test_what_is_no_sequence_of_rows_is_refused_in_one_sentence(rows, why):
    with pytest.raises(UserError, match=why):
        open_questions(rows)


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5), (4, 5, 1), (4, 5, 4)])
def test_an_array_of_bytes_is_a_picture(shape):
    pixels = np.full(shape, 255, np.uint8)
    with open_questions([{"question": "?", "answer": "a", "image": pixels, "images": []}]) as questions:
        (image,) = questions[0].images
        assert (image.size, image.getpixel((4, 3))) == ((5, 4), (255, 255, 255))


@pytest.mark.parametrize("pixels", [np.zeros((4, 5, 3)), np.zeros((3, 4, 5), np.uint8), np.zeros((0, 5, 3), np.uint8)])
def test_another_array_is_no_picture(pixels):
    with pytest.raises(UserError, match=r"an array of an image must be uint8 \[height, width, channels\], not one of"):
        open_questions([{"question": "?", "answer": "a", "image": pixels}])


def test_maps_and_uuids_of_parquet_are_objects_and_ids(tmp_path):
    number = uuid.UUID(int=7)
    truth = pa.array([[("ground_truth", "Chad"), ("style", "rule")]], pa.map_(pa.string(), pa.string()))
    prompt = pa.array([[{"role": "user", "content": "Which?"}]])
    ids = pa.array([number.bytes], pa.uuid())
    pq.write_table(pa.table({"id": ids, "prompt": prompt, "reward_model": truth}), tmp_path / "q.parquet")
    (question,) = open_questions(tmp_path / "q.parquet")
    assert (question.id, question.answers) == (str(number), ("Chad",))


def test_a_table_that_becomes_one_of_arrow_is_a_sequence_of_its_rows():
    class Frame:  # as those of polars, whose [0] is a table, too
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return self

        def to_arrow(self):
            return pa.table({"question": ["Which?"], "answer": ["Chad"]})

    assert open_questions(Frame())[0].answers == ("Chad",)


def test_gaps_of_a_pandas_table_are_nothing_in_any_column():
    asked = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "<answer>Oslo</answer>"}]
    gaps = dict.fromkeys(("images", "videos", "audio", "audios", "system", "tools", "history", "objects", "label"), NAN)
    (example,) = open_examples([{"messages": asked, **gaps}])
    assert example.turns == ("<answer>Oslo</answer>",)
    (example,) = open_examples([{"query": "Which?", "response": "Oslo", **gaps}])
    assert example.turns == ("<answer>Oslo</answer>",)
    extra = {"question": "Which?", "tool_call": NAN, "parallel": NAN}
    verl = {"prompt": asked[:1], "reward_model": {"ground_truth": "Oslo"}, "extra_info": extra}
    for row in (verl, {"question": "Which?", "answer": "Oslo", "tool_call": NAN, "parallel": NAN, "category": NAN}):
        with open_questions([{**row, "images": NAN, "videos": NAN, "candidate_answers": NAN}]) as questions:
            assert (questions[0].answers, questions.references) == (("Oslo",), {})


TALK = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<answer>x</answer>"}]


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "a", "answer": "x", "answer": "y"}',
        '  {"question": "a", "answer": "x", "meta": {"k": 1, "k": 1}} ',
        '[{"question": "a", "answer": "x", "answer": "y"}]',
        '{"data": [{"question": "a", "answer": "x", "answer": "y"}]}',
    ],
)
def test_a_row_with_a_key_twice_is_a_bad_row(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"(row|line) 1: it has the key '(answer|k)' twice in one object"):
        open_questions(path)
    with open_questions(path, bad_rows="skip", allow_empty=True) as questions:
        assert questions.report.bad == {"key given twice": 1}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"messages": '[{"role": "user", "content": "a", "content": "b"}]'}, "key given twice"),
        (
            {"messages": [TALK[0], {"role": "tool_call", "content": '{"name": "search", "name": "x"}'}, TALK[1]]},
            "key given twice",
        ),
        (
            {
                "messages": [
                    TALK[0],
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "search", "arguments": '{"query": "a", "query": "b"}'}}],
                    },
                ]
            },
            "no tool call",
        ),
        (
            {
                "messages": [
                    TALK[0],
                    {
                        "role": "assistant",
                        "content": '<tool_call>{"name": "search", "arguments": {"q": "a", "q": "b"}}</tool_call>',
                    },
                ]
            },
            "no tool call",
        ),
    ],
)
def test_a_key_twice_in_json_in_a_text_is_told(lines, value, kind):
    with open_examples(lines(value, {"messages": TALK}), bad_rows="skip") as examples:
        assert examples.report.bad == {kind: 1}
        assert "twice" in str(examples.report.first_bad[kind])


def test_a_gap_that_pandas_made_a_text_is_no_answer(lines):
    with pytest.raises(UserError, match="it needs 'answers'"):
        open_questions(lines({"question": "?", "answer": "nan"}))


@pytest.mark.parametrize("column", ["answer_alias", "alternative_answers", "accepted_answers", "answer_eval"])
def test_aliases_are_accepted_under_their_usual_names(lines, column):
    assert open_questions(lines({"question": "?", "answer": "Chad", column: ["Tchad"]}))[0].answers == ("Chad", "Tchad")


def test_a_range_of_numbers_is_no_answer(lines):
    row = {"question": "?", "answer": ["5"], "answer_eval": [{"wikidata": 5.0, "range": [4.5, 5.5]}]}  # InfoSeek's
    assert open_questions(lines(row))[0].answers == ("5",)


@pytest.mark.parametrize("mark", [{"answerable": 0}, {"answerable": False}, {"is_impossible": 1}])
def test_a_question_that_is_marked_as_one_without_an_answer_is_refused(lines, mark):
    with pytest.raises(UserError, match="marked as a question without an answer"):
        open_questions(lines({"question": "?", "answer": "Chad", **mark}))


def test_a_verdict_on_a_reply_is_no_answer(lines):
    row = {"prompt": "Which?", "completion": "Chad"}
    assert open_questions(lines({**row, "label": True}))[0].answers == ("Chad",)
    with pytest.raises(UserError, match="marked as one that is not wanted"):
        open_questions(lines({**row, "label": False}))


def test_a_day_that_a_table_holds_as_a_time_is_a_day(tmp_path):
    path = tmp_path / "days.parquet"
    pq.write_table(pa.table({"question": ["When?"], "answer": [datetime.datetime(2020, 3, 12)]}), path)
    assert open_questions(str(path))[0].answers == ("2020-03-12",)
