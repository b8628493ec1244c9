"""A user's own benchmark: its converter, checked at each row, since a wrong result would be a wrong score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from hypereyes_jax.configs.objects import in_words
from hypereyes_jax.data.benchmarks.types import BenchmarkSpec, ReadOptions
from hypereyes_jax.data.sources.media import Picture, picture
from hypereyes_jax.data.sources.question_rows import QuestionRow
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError

_MUST = "It must take a row (a dict), an id and ReadOptions, and return a list of Question (or raise BadRow)"


def checked_spec(spec: BenchmarkSpec, name: str) -> BenchmarkSpec:
    """The benchmark whose converter gives question rows or a sentence on what it gave.

    Raises UserError for patterns or levels that are none.
    """
    for field in ("files", "levels"):
        value: Any = getattr(spec, field)
        if isinstance(value, str) or not all(isinstance(each, str) for each in value):
            raise UserError(f"{name}: {field} must be a tuple of texts, such as ({value!r:.80},)")
    if outside := [pattern for pattern in spec.files if PurePath(pattern).is_absolute()]:
        raise UserError(f"{name}: the pattern {outside[0]!r} must be relative to the folder of --data")

    def convert(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
        try:
            given: Any = spec.convert(row, default_id, options)
            questions = list(given) if isinstance(given, Iterable) and not isinstance(given, tuple) else [given]
        except (BadRow, UserError):
            raise
        except Exception as error:
            raise UserError(f"convert of {name} failed on the row {default_id}: {in_words(error)}. {_MUST}") from error
        return [_question_row(question, name, default_id) for question in questions]

    return replace(spec, convert=convert)


def _question_row(question: Any, name: str, place: str) -> QuestionRow:
    if isinstance(question, Question):
        pictures = tuple(map(picture, question.images))
        about = (question.kind, dict(question.meta), name)
        question = QuestionRow(
            question.id, question.text, pictures, question.answers, *about, captions=tuple(question.captions)
        )
    why = "" if isinstance(question, QuestionRow) else f"a {type(question).__name__} in its list"
    if not why and not (isinstance(question.id, str) and isinstance(question.text, str) and question.id):
        why = f"a question whose id and text are {question.id!r:.60} and {question.text!r:.60}, not texts"
    if not why and not _is_all(question.answers, str):
        why = f"answers that are not a tuple of texts: {question.answers!r:.80}"
    if not why and not _is_all(question.pictures, Picture):
        why = "images that are not pictures (hypereyes_jax.data.sources.media.picture makes one of bytes or a path)"
    if why:
        raise UserError(f"convert of {name} gave {why} for the row {place}. {_MUST}")
    return question  # type: ignore[no-any-return]


def _is_all(values: Any, kind: type) -> bool:
    return isinstance(values, tuple | list) and all(isinstance(each, kind) for each in values)
