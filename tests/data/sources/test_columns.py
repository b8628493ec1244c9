"""Columns are known by their usual names in any spelling; what is taken for what, and what is not read, is told."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.sources.columns import NAMES, plain_name
from hypereyes_jax.errors import UserError


def test_no_two_fields_have_a_name_that_reads_the_same():
    plain = [(plain_name(name), field) for field, names in NAMES.items() for name in names]
    assert len({name for name, _ in plain}) == len(plain)


@pytest.mark.parametrize(
    "names",
    [
        ("Question", "Answer", "Image"),
        ("QUESTION", "ANSWERS", "IMG"),
        ("question", "Ground_Truth", "ImagePath"),
        ("Query", "ground truth", "image path"),
        ("Problem", "final-answer", "Picture"),
        ("Prompt", "reference_answer", "img_paths"),
        ("question", "correctAnswer", "image_name"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_usual_names_are_known_in_any_spelling(lines, pictures, names, form):
    row = dict(zip(names, ("What?", "a flag", "pics/1.png"), strict=True))
    path = lines(row)
    if form == "parquet":
        path = path.with_suffix(".parquet")
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif form == "csv":
        path = path.with_suffix(".csv")
        path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    with open_questions(path) as questions:
        (question,) = questions
        assert (question.text, question.answers, question.meta) == ("What?", ("a flag",), {})
        assert [image.getpixel((0, 0)) for image in question.images] == [(0, 255, 0)]
        assert questions.report.columns == {field: [] for field in questions.report.columns} | {
            "text": [names[0]],
            "answers": [names[1]],
            "images": [names[2]],
        }
        assert questions.report.other_columns == questions.report.pictures_unread == {}


def test_conversations_have_columns_of_any_spelling_too(lines, pictures):
    talk = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A flag"}]
    (example,) = open_examples(lines({"Messages": talk, "Images": ["pics/0.png"]}))
    assert [part if isinstance(part, str) else part.size for part in example.observations[0]] == [(64, 48), "What?"]


def test_a_question_is_not_the_text_beside_it(lines):
    (question,) = open_questions(lines({"text": "A passage of a book.", "Question": "What?", "answer": "a"}))
    assert question.text == "What?"
    assert question.meta == {}


def test_a_column_that_holds_nothing_gives_way_to_the_next(lines, pictures):
    row = {"question": "", "query": "What?", "answers": [], "answer": "a", "images": [], "image": "pics/0.png"}
    with open_questions(lines(row)) as questions:
        (question,) = questions
        assert (question.text, question.answers, len(question.images)) == ("What?", ("a",), 1)
        assert questions.report.columns["images"] == ["images", "image"]


def test_numbered_pictures_are_known_without_an_underscore_and_told_as_one(lines, pictures):
    with open_questions(
        lines({"question": "?", "answer": "a", "image2": "pics/1.png", "Image1": "pics/0.png"})
    ) as rows:
        assert [image.getpixel((0, 0)) for image in rows[0].images] == [(255, 0, 0), (0, 255, 0)]
        assert rows.report.columns["images"] == ["Image1, image2"]


@pytest.mark.parametrize(
    "value", ["pics/0.png", ["pics/0.png"], "https://a.example/x.JPG?w=1", "data:image/png;base64,x"]
)
def test_pictures_in_a_column_of_no_known_name_are_told(lines, pictures, value):
    with open_questions(lines({"question": "?", "answer": "a", "image_scan": value, "page": value, "n": 1})) as rows:
        assert rows[0].images == ()
        assert list(rows.report.pictures_unread) == ["page", "image_scan"]
        told = [sentence for sentence in rows.report.left_out() if "'page' seems to hold images" in sentence]
        assert told[0].endswith("--columns images=page reads it")
    with open_questions(lines({"question": "?", "answer": "a", "image": "pics/0.png", "page": "x.png"})) as rows:
        assert rows.report.left_out() == []


def test_pictures_beside_those_that_are_read_are_told(lines, pictures):
    row = {"question": "?", "answer": "a", "image": "pics/0.png"}
    for more, names in (
        ({"images": ["pics/1.png"]}, ["image"]),
        ({"img_1": {"bytes": None, "path": "pics/1.png"}}, ["img_1"]),
    ):
        with open_questions(lines(row | more)) as rows:
            assert list(rows.report.pictures_unread) == names
    for same in ({"images": ["pics/0.png", "pics/1.png"]}, {"image_url": "https://a.example/0.png"}, {"img_1": None}):
        with open_questions(lines(row | same)) as rows:
            assert not rows.report.pictures_unread


@pytest.mark.parametrize("mark", [{"answerable": False}, {"is_impossible": True}])
def test_a_question_that_is_marked_as_without_an_answer_is_none(lines, mark):
    with pytest.raises(UserError, match="marked as a question without an answer"):
        open_questions(lines({"question": "?", "answer": "a", **mark}))


def test_pictures_as_bytes_in_a_column_of_no_known_name_are_told(tmp_path, red):
    path = tmp_path / "rows.parquet"
    inside = [{"bytes": red, "path": None}]
    pq.write_table(pa.table({"question": ["?"], "answer": ["a"], "scan": [red], "page": inside, "raw": ["x"]}), path)
    with open_questions(path) as rows:
        assert sorted(rows.report.pictures_unread) == ["page", "scan"]


def test_a_row_without_a_known_column_names_the_option_that_gives_it(lines):
    with pytest.raises(UserError, match=r"no answer; its columns are 'question', 'key': .*--columns answers=COLUMN"):
        open_questions(lines({"question": "?", "key": "a"}))
    with pytest.raises(UserError, match=r"no question; .*name the right one by --columns text=row\.Question"):
        open_questions(lines({"row_idx": 0, "row": {"Question": "?", "answer": "a"}}))


def test_rows_by_their_ids_in_one_object_have_the_cure(lines):
    rows = {"q1": {"question": "?", "answer": "a"}, "q2": {"question": "??", "answer": "b"}}
    with pytest.raises(UserError, match=r"columns are 'q1', 'q2': if these are ids of rows, make each a line: jq -c"):
        open_questions(lines(rows))


def test_columns_of_a_demonstrations_shape_are_not_called_unread(lines):
    with open_examples(lines({"instruction": "What?", "input": "", "output": "A flag", "source": "x"})) as examples:
        assert list(examples.report.other_columns) == ["source"]
