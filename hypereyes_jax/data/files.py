"""Questions and demonstrations as JSON lines, images inside, each line whole in itself: what this project writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.sources import open_questions
from hypereyes_jax.env.media.images import embedded, png_bytes
from hypereyes_jax.env.types import Part, Question
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import writing_atomic


class RowValueError(UserError, ValueError):
    """A value of a question or a demonstration that its file can't hold. The message names row and field."""


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """One question a line: id, text, answers (the reference first), kind, meta, images. One at a time is in memory.

    Raises RowValueError for a value that the file cannot hold, naming question and field.
    """
    _write(path, (question_json(question) for question in questions))


def read_questions(path: Path) -> list[Question]:
    """All questions of a file, decoded. Raises UserError naming the file, the row and what is wrong with it."""
    with open_questions(path) as questions:
        return list(questions)


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """One demonstration a line: id, system prompt, and its messages in turn. One at a time is in memory."""
    _write(path, (example_json(example) for example in examples))


def question_json(question: Question) -> dict[str, Any]:
    """A question as the object that a line holds."""
    return {
        "id": question.id,
        "text": question.text,
        "answers": list(question.answers),
        "kind": question.kind,
        "meta": question.meta,
        "images": [_encode(image, f"image {i} of {question.id!r}") for i, image in enumerate(question.images)],
    } | ({"captions": list(question.captions)} if question.captions else {})


def example_json(example: Example, encode: Callable[[Image.Image], Any] | None = None) -> dict[str, Any]:
    """A demonstration as the object that a line holds."""
    encode = encode or partial(_encode, what=f"an image of {example.id!r}")
    return {
        "id": example.id,
        "system": example.system,
        "observations": [[p if isinstance(p, str) else {"image": encode(p)} for p in o] for o in example.observations],
        "turns": list(example.turns),
    }


def json_line(path: Path, number: int, row: dict[str, Any]) -> str:
    """A row as one line of JSON; numpy's numbers and arrays are written as JSON's.

    Raises RowValueError for what JSON cannot hold, naming file, line, row and field.
    """
    try:
        line = json.dumps(row, ensure_ascii=False, default=_plain) + "\n"
        line.encode()
        return line
    except UnicodeEncodeError as error:
        raise RowValueError(
            f"{path}, line {number} ({row['id']!r}): half of a surrogate pair is not text ({error})"
        ) from None
    except (TypeError, ValueError) as error:
        fields = [name for name in row if not _writable(row[name])]
        raise RowValueError(
            f"{path}, line {number} ({row['id']!r}): {', '.join(fields) or 'the row'} can't be written as JSON "
            f"({error}). Use texts, numbers, lists and objects."
        ) from None


def _plain(value: Any) -> Any:
    """A scalar or an array of numpy or jax as JSON has it, for `json.dumps`."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _writable(value: Any) -> bool:
    try:
        json.dumps(value, default=_plain)
    except (TypeError, ValueError):
        return False
    return True


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with writing_atomic(path) as file:
        for number, row in enumerate(rows, start=1):
            file.write(json_line(path, number, row).encode())


def _encode(image: Part, what: str) -> str:
    if not isinstance(image, Image.Image):
        raise RowValueError(
            f"{what} is a {type(image).__name__}, and must be a PIL image (Image.open, Image.fromarray)."
        )
    try:
        return embedded(png_bytes(image), "PNG")
    except OSError as error:  # of a mode that PNG has not
        raise RowValueError(
            f'{what} can\'t be written as PNG ({error}): convert it, by image.convert("RGB").'
        ) from None
