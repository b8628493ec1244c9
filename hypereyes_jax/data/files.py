"""Questions and demonstrations on disk: JSON lines, images inside, each line whole in itself."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from hypereyes_jax.data.demonstration import Example
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
    found = [_question(path, number, row) for number, row in _rows(path)]
    seen: dict[str, int] = {}
    for number, question in enumerate(found, start=1):
        if question.id in seen:
            raise _bad(path, number, f"the id {question.id!r} is that of question {seen[question.id]} too")
        seen[question.id] = number
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
    for key, kind in (("id", str), ("text", str), ("answers", list)):
        if not isinstance(row.get(key), kind):
            raise _bad(path, number, f"it needs {key!r}, a {'list of texts' if kind is list else 'text'}")
    if not row["answers"] or not all(isinstance(answer, str) for answer in row["answers"]):
        raise _bad(path, number, "'answers' must be texts, the reference answer first")
    images = tuple(_decode(path, number, image) for image in row.get("images", []))
    return Question(row["id"], row["text"], images, tuple(row["answers"]), row.get("kind", ""), row.get("meta", {}))


def _example(path: Path, number: int, row: dict[str, Any]) -> Example:
    try:
        observations = tuple(
            tuple(part if isinstance(part, str) else _decode(path, number, part["image"]) for part in parts)
            for parts in row["observations"]
        )
        turns = tuple(str(turn) for turn in row["turns"])
        example = Example(str(row["id"]), str(row["system"]), observations, turns)
    except (KeyError, TypeError) as error:
        raise _bad(path, number, f"it is no demonstration ({type(error).__name__}: {error})") from None
    if not turns or len(turns) != len(observations):
        raise _bad(path, number, f"{len(observations)} user messages need as many turns, found {len(turns)}")
    return example


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"there is no {path}. Give the file, or make one with `hypereyes synth`.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({error}). Make it anew with `hypereyes synth`.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
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
    try:
        data = base64.b64decode(str(text).removeprefix(_PNG), validate=True)
        image = Image.open(io.BytesIO(data))
        image.load()
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise _bad(path, number, f"an image can't be read ({error})") from None
    return image.convert("RGB")
