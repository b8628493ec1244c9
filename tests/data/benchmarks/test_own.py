"""A benchmark of a user's own: what its converter may give, and what it is told."""

import re

import pytest

from hypereyes_jax.data.benchmarks import open_benchmark
from hypereyes_jax.errors import UserError

SOURCE = """
from PIL import Image
from hypereyes_jax.data.benchmarks import BenchmarkSpec, any_row
from hypereyes_jax.data.sources.question_rows import QuestionRow
from hypereyes_jax.env.types import Question

PICTURE = Image.new("RGB", (9, 7))

def question(row, default_id, options):
    return [Question(default_id, row["q"], (PICTURE,), (row["a"],), "easy", {"x": 1})]

def one_by_one(row, default_id, options):
    yield QuestionRow(default_id, row["q"], (), (row["a"],), "easy", {"x": 1}, "mine")

def letters(row, default_id, options):
    return [QuestionRow(default_id, row["q"], (), row["a"], "easy", {}, "mine")]

def nothing(row, default_id, options):
    return None

def rows(row, default_id, options):
    return [row]

def typo(row, default_id, options):
    return row["question"]

def short(row):
    return []

SPECS = {
    name: BenchmarkSpec("mine", "Mine", ("*.jsonl",), convert)
    for name, convert in list(globals().items())
    if callable(convert) and getattr(convert, "__module__", "") == __name__
}
globals().update({f"spec_{name}": spec for name, spec in SPECS.items()})
spec_text_pattern = BenchmarkSpec("mine", "Mine", "*.jsonl", any_row)
spec_absolute = BenchmarkSpec("mine", "Mine", ("/etc/*",), any_row)
spec_text_level = BenchmarkSpec("mine", "Mine", ("*.jsonl",), any_row, levels="level1")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"q": "Which?", "a": "Chad"}\n')
    return tmp_path


@pytest.mark.parametrize(("name", "images"), [("question", [(9, 7)]), ("one_by_one", [])])
def test_a_converter_gives_questions_or_rows_of_them(folder, name, images):
    (question,) = open_benchmark(f"{folder / 'mine.py'}:spec_{name}", folder / "data")
    assert (question.id, question.text, question.answers) == ("a-1", "Which?", ("Chad",))
    assert (question.kind, question.meta) == ("easy", {"x": 1})
    assert [image.size for image in question.images] == images


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("letters", "answers that are not a tuple of texts: 'Chad' for the row a-1"),
        ("nothing", "gave a NoneType in its list"),
        ("rows", "gave a dict in its list"),
        ("typo", "failed on the row a-1: KeyError: 'question'"),
        ("short", "takes 1 positional argument but 3 were given"),
        ("text_pattern", "files must be a tuple of texts, such as ('*.jsonl',)"),
        ("absolute", "the pattern '/etc/*' must be relative"),
        ("text_level", "levels must be a tuple of texts"),
    ],
)
def test_what_a_converter_gives_wrong_is_told_in_a_sentence(folder, name, why):
    with pytest.raises(UserError, match=re.escape(why)):
        open_benchmark(f"{folder / 'mine.py'}:spec_{name}", folder / "data")
