"""Questions and demonstrations on disk: JSON lines, images inside, each line whole in itself."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.env.media.images import ImageError, ImageLimits, read_base64_image
from hypereyes_jax.env.types import Part, Question
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import write_atomic

_PNG = "data:image/png;base64,"


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """One question a line: id, text, answers (the reference first), kind, meta, images."""
    _write(
        path,
        (
            {
                "id": q.id,
                "text": q.text,
                "answers": list(q.answers),
                "kind": q.kind,
                "meta": q.meta,
                "images": [_encode(image) for image in q.images],
            }
            for q in questions
        ),
    )


def read_questions(path: Path) -> list[Question]:
    """Raises UserError naming the file, the line and what is wrong with it."""
    found: list[Question] = []
    lines: dict[str, int] = {}
    for number, row in _rows(path):
        question = _question(path, number, row)
        if question.id in lines:
            raise _bad(path, number, f"the id {question.id!r} is that of line {lines[question.id]} too")
        lines[question.id] = number
        found.append(question)
    return found


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """One demonstration a line: id, system prompt, and its messages in turn."""
    _write(
        path,
        (
            {
                "id": e.id,
                "system": e.system,
                "observations": [
                    [p if isinstance(p, str) else {"image": _encode(p)} for p in o] for o in e.observations
                ],
                "turns": list(e.turns),
            }
            for e in examples
        ),
    )


def read_examples(path: Path) -> list[Example]:
    """Raises UserError naming the file, the line and what is wrong with it."""
    return [_example(path, number, row) for number, row in _rows(path)]


def _question(path: Path, number: int, row: dict[str, Any]) -> Question:
    name, text = _text(path, number, row, "id"), _text(path, number, row, "text")
    answers = _list(path, number, row, "answers")
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise _bad(path, number, "'answers' must be texts, the reference answer first")
    images = tuple(_decode(path, number, image) for image in _list(path, number, {"images": []} | row, "images"))
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise _bad(path, number, "'meta' must be a JSON object")
    return Question(name, text, images, tuple(answers), _text(path, number, {"kind": ""} | row, "kind"), meta)


def _example(path: Path, number: int, row: dict[str, Any]) -> Example:
    name, system = _text(path, number, row, "id"), _text(path, number, row, "system")
    turns = _list(path, number, row, "turns")
    if not all(isinstance(turn, str) for turn in turns):
        raise _bad(path, number, "'turns' must be texts")
    observations = tuple(_parts(path, number, parts) for parts in _list(path, number, row, "observations"))
    if not turns or len(turns) != len(observations):
        raise _bad(path, number, f"{len(observations)} user messages need as many turns, found {len(turns)}")
    return Example(name, system, observations, tuple(turns))


def _parts(path: Path, number: int, parts: Any) -> tuple[Part, ...]:
    if not isinstance(parts, list) or not all(
        isinstance(p, str) or (isinstance(p, dict) and "image" in p) for p in parts
    ):
        raise _bad(path, number, "each of 'observations' must be a list of texts and of objects with an 'image'")
    return tuple(part if isinstance(part, str) else _decode(path, number, part["image"]) for part in parts)


def _text(path: Path, number: int, row: dict[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise _bad(path, number, f"it needs {key!r}, a text")
    return str(row[key])


def _list(path: Path, number: int, row: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(row.get(key), list):
        raise _bad(path, number, f"it needs {key!r}, a list")
    return list(row[key])


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_atomic(path, "".join(_line(path, number, row) for number, row in enumerate(rows, start=1)))


def _line(path: Path, number: int, row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}, line {number} ({row['id']!r}): half of a surrogate pair is no text ({error})"
        ) from None
    return line


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        # Not `splitlines`: a text may hold one of the rarer line separators of Unicode, which JSON leaves as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"there is no {path}. Give the file, or make one with `hypereyes synth`.") from None
    except OSError as error:
        raise UserError(f"can't read {path} ({error.strerror}). Give a file made by `hypereyes synth`.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({error}). Make it anew with `hypereyes synth`.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\ud" in line.lower():  # half of a surrogate pair is JSON, but no text that can be encoded again
                json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise _bad(path, number, f"it is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise _bad(path, number, "it must be a JSON object")
        yield number, row


def _bad(path: Path, number: int, why: str) -> UserError:
    return UserError(f"{path}, line {number}: {why}. Mend or remove that line, or make the file anew.")


def _encode(image: Part) -> str:
    assert isinstance(image, Image.Image)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return _PNG + base64.b64encode(buffer.getvalue()).decode()


def _decode(path: Path, number: int, text: Any) -> Image.Image:
    if not isinstance(text, str):
        raise _bad(path, number, "an image must be a text: a data URI, or base64 alone")
    try:
        return read_base64_image(text, ImageLimits(trailing_data=True))
    except ImageError as error:
        raise _bad(path, number, f"an image can't be read ({error})") from None
