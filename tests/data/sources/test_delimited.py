"""Tables as text: whatever Python's own csv module writes is read, row by row."""

import base64
import csv
import io
import pickle
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypereyes_jax.data import open_questions
from hypereyes_jax.data.sources import delimited_rows
from hypereyes_jax.data.sources.delimited_rows import DelimitedRows
from hypereyes_jax.errors import UserError

CELLS = st.text(st.sampled_from('ab",;\t|\n\r é\u2028🦆'), max_size=8)


@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6),
    st.sampled_from(",\t;|"),
    st.sampled_from("\n \r\n".split(" ")),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_those_of_the_csv_module(tmp_path, monkeypatch, table, delimiter, end):
    monkeypatch.setattr(delimited_rows, "_BLOCK", 7)
    out = io.StringIO()
    # What has to be quoted is, even by a module that takes a lone \r for harmless.
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("question", "answer", "note"), *table])
    path = tmp_path / "rows.csv"
    path.write_bytes(out.getvalue().encode())
    rows = DelimitedRows(path, 1 << 20, delimiter, {})
    expected = [
        {name: cell if cell.strip() else None for name, cell in zip(("question", "answer", "note"), cells, strict=True)}
        for cells in table
    ]
    assert [rows.read(index) for index in range(len(rows))] == expected
    assert [row for _, row in pickle.loads(pickle.dumps(rows)).scan()] == expected
    rows.close()


def written(tmp_path, text, name="rows.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_a_table_in_the_form_of_vlmevalkit_is_read(tmp_path, red):
    picture = base64.b64encode(red * 3000).decode()  # longer than the csv module takes by itself
    assert len(picture) > csv.field_size_limit() or csv.field_size_limit() > 131_072
    path = written(tmp_path, f"index\tquestion\tanswer\timage\tcategory\n7\tWhich?\tred\t{picture}\tcolour\n", "a.tsv")
    with open_questions(path) as questions:
        (question,) = questions
        assert (question.id, question.text, question.answers, question.kind) == ("7", "Which?", ("red",), "colour")
        assert question.images[0].getpixel((3, 3)) == (255, 0, 0)
        assert questions.report.formats == {"TSV": 1}


def test_a_spreadsheet_is_read_with_its_capitals_byte_order_mark_and_empty_columns(tmp_path, pictures):
    text = (
        '\ufeffQuestion;Answer;Image;Note;\r\nWhat?;"[""Chad"", ""Tchad""]";pics/0.png;;\r\n\r\n'
        '"a;\r\nb";007;;;\r\n;;;;\r\n'
    )
    with open_questions(written(tmp_path, text), bad_rows="skip") as questions:
        one, two = questions
        assert (one.text, one.answers, len(one.images)) == ("What?", ("Chad", "Tchad"), 1)
        assert (two.text, two.answers, two.images) == ("a;\r\nb", ("007",), ())
        assert [questions.place(index).number for index in (0, 1)] == [2, 4]
        assert questions.report.bad == {"no question": 1}


def test_columns_of_other_names_are_given(tmp_path):
    path = written(tmp_path, "Q,A,extra\nWhat?,x,1\n")
    assert open_questions(path, {"text": "Q", "answers": "A"})[0].answers == ("x",)
    with pytest.raises(
        UserError, match=r"first line of .*rows\.csv names no columns of questions: 'Q,A,extra'.*--columns"
    ):
        open_questions(path)


def test_a_first_line_of_many_names_is_read_in_time_linear_in_its_length(tmp_path):
    path = tmp_path / "rows.csv"
    names = ["question", "answer", *(f"c{number}" for number in range(30_000))]
    path.write_text(f"{','.join(names)}\nWhat?,a{',' * 30_000}\n")
    started = time.thread_time()
    with open_questions(path) as questions:
        assert questions[0].text == "What?"
    assert time.thread_time() - started < 5  # a minute, were each name looked for among all


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("question,answer\nWhat?,a,b\n", r"line 2: it has 3 cells, where the first line names 2 columns"),
        ('question,answer\nok,1\n"What?,a\nb,c\n', r"line 3: its quotes or line breaks can't be understood"),
        ('question,answer\n"What?"no,a\n', r"line 2: its quotes or line breaks can't be understood"),
        ("question,answer\nWhat?\n", r"line 2: it needs 'answers'"),
        ("question,Question,answer\na,b,c\n", r"two columns of the name 'question'"),
        ("What?,Chad\nWho?,me\n", r"names no columns of questions: 'What\?,Chad'"),
        ("question\nWhat?\n", "names no columns of questions: 'question'"),
        ("question,answer\noù,là\n".encode("latin-1"), "not a text file in UTF-8.*iconv"),
        ("question,answer\n" + "x" * 2000 + ",a\n", "line 2: it has 2,003 bytes, where at most 1,000"),
        ('question,answer\n"' + "x\n" * 2000 + '",a\n', "line 2: it has 1,001 bytes, where at most 1,000"),
        ("question,answer\n", "no row of .*rows.csv can be used"),
        ("question,answer\nWhat?,a\n question,answer\n", "line 3: it repeats the names of the columns"),
        ("| question | answer |\n|:---|---:|\n| What? | a |\n", "line 2: it is the rule under the names of a table"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_line(tmp_path, text, why):
    path = tmp_path / "rows.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=why) as caught:
        open_questions(path, max_row_bytes=1000)
    assert "\n" not in str(caught.value)


def test_rows_after_broken_ones_are_read_on(tmp_path):
    text = 'question,answer\n"a"b,1\nc,2\n' + "x" * 3000 + ",3\nd,4\n"
    with open_questions(written(tmp_path, text), max_row_bytes=1000, bad_rows="skip") as questions:
        assert [question.text for question in questions] == ["c", "d"]
        assert questions.report.bad == {"broken quotes": 1, "row too large": 1}
