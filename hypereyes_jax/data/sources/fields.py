"""Finding what a row means: the names that data sets use for the same thing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

from hypereyes_jax.data.sources.media import Clip, Picture, picture
from hypereyes_jax.data.sources.types import BadRow, Row

NAMES: dict[str, tuple[str, ...]] = {  # our field -> columns, the first that is there counts
    "id": ("id", "data_id", "sample_id", "question_id", "qid", "uid", "uuid", "index", "idx"),
    "text": ("text", "question", "query", "prompt", "problem", "instruction", "user_prompt"),
    "answers": (
        "answers",
        "answer",
        "gt_answer",
        "ground_truth",
        "gt",
        "solution",
        "label",
        "target",
        "response",
        "output",
    ),
    "more_answers": ("alternative_gt_answers", "candidate_answers", "answer_aliases", "aliases"),
    "images": (
        "images",
        "image",
        "query_image",
        "image_path",
        "image_paths",
        "img_path",
        "file_name",
        "file_path",
        "image_file",
        "image_url",
        "image_urls",
        "img_url",
        "img",
        "pics",
    ),
    "videos": ("videos", "video", "video_path"),
    "kind": ("kind", "category", "domain", "question_type", "task_type", "type", "area"),
    "system": ("system", "system_prompt"),
    "messages": ("messages", "conversations", "conversation", "dialog"),
    "tools": ("tools",),
    "tool_calls": ("tool_call", "tool_calls", "ref_rounds"),
    "searches": ("parallel", "searches", "ref_invocations"),
}
_NUMBERED = re.compile(r"(?:img|image)_(\d+)")
_IMAGE_TAG = re.compile(r"<(?:image|video)>\n?|<\|image_pad\|>|<\|vision_start\|><\|image_pad\|><\|vision_end\|>")


class Fields:
    """Columns by meaning, as `--columns` names them or as data sets are wont to."""

    def __init__(self, columns: Mapping[str, str]):
        """Raises ValueError for a field that there is none of."""
        unknown = sorted(set(columns) - set(NAMES))
        if unknown:
            raise ValueError(f"there is no field {', '.join(unknown)}; there are {', '.join(NAMES)}")
        self.columns = dict(columns)
        self.used = {name.partition(".")[0] for name in columns.values()}  # columns that some field takes
        self.used |= {column for name in NAMES if name != "kind" for column in NAMES[name]}

    def get(self, row: Row, name: str) -> Any:
        """The value of a field; None where the row has none. A column that was named must be there (BadRow)."""
        if name in self.columns:
            return self._named(row, name)
        for column in NAMES[name]:
            if row.get(column) is not None:
                return row[column]
        return None

    def has(self, row: Row, name: str) -> bool:
        return self.get(row, name) is not None

    def _named(self, row: Row, name: str) -> Any:
        value: Any = row
        for part in self.columns[name].split("."):  # "extra_info.question"
            if not isinstance(value, Mapping) or part not in value:
                raise BadRow(
                    f"no column {self.columns[name]}",
                    f"it has no column {self.columns[name]!r}, which {name} was said to be in; it has "
                    f"{', '.join(map(repr, row))[:300]}",
                )
            value = value[part]
        return value


def text_of(value: Any, what: str) -> str:
    """A text. Raises BadRow for anything else, and for an empty one."""
    if not isinstance(value, str):
        raise BadRow(f"no {what}", f"it needs {what!r}, a text, not {_kind(value)}")
    if not value.strip():
        raise BadRow(f"no {what}", f"its {what!r} is empty")
    return value


def id_of(value: Any, default: str) -> str:
    """An id as text: a whole number is fine, as tables with gaps hold it too (5.0). Raises BadRow."""
    if _is_blank(value) or _is_gap(value):
        return default
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow("no id", f"its 'id' must be a text or an integer, not {_kind(value)}")
    return str(value)


def answers_of(value: Any, more: Any = None, *, exact: bool = False) -> tuple[str, ...]:
    """Accepted answers, the reference first, each once. Numbers are written out; literal <answer> tags are dropped.

    Args:
      value: a text, a number, or a list of these, which a text may hold as JSON.
      more: accepted besides: a list, or one in JSON in a text.
      exact: take texts as they are, which are ours.

    Raises BadRow.
    """
    answers: list[str] = []
    for answer in (*_listed(_texts(value)), *_listed(_unpacked(more))):
        if answer is None or _is_gap(answer):
            continue
        if isinstance(answer, Decimal | date | time):
            answer = str(answer)
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            part = "; a part of it is named by --columns answers=COLUMN.PART" if isinstance(answer, Mapping) else ""
            raise BadRow("no answer", f"its 'answers' must be texts, not {_kind(answer)}{part}")
        text = answer if isinstance(answer, str) else str(answer)
        if not exact:
            text = (re.sub(r"</?answer>", "", text) if "<" in text else text).strip()
        if exact or (text and text not in answers):
            answers.append(text)
    if not any(map(str.strip, answers)):
        raise BadRow("no answer", "it needs 'answers', texts of which the first is the reference")
    return tuple(answers)


def pictures_of(row: Row, fields: Fields) -> tuple[Picture, ...]:
    """All of a row's pictures, in order. Raises BadRow."""
    value = fields.get(row, "images")
    if value is None and "images" not in fields.columns:
        names = [name for name in row if name.startswith(("img_", "image_"))]
        matches = ((_NUMBERED.fullmatch(name), row[name]) for name in names if row[name] is not None)
        numbered = sorted((int(match[1]), number, part) for number, (match, part) in enumerate(matches) if match)
        return tuple(picture(part) for _, _, part in numbered)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _unpacked(value)
    return tuple(picture(part) for part in _listed(value) if not _is_blank(part))


def clips_of(row: Row, fields: Fields) -> tuple[Clip, ...]:
    """All of a row's videos, in order. Raises BadRow."""
    value = fields.get(row, "videos")
    return tuple(Clip(picture(part)) for part in _listed(_unpacked(value)) if not _is_blank(part))


def without_image_tags(text: str) -> str:
    """A question's text without the places of its pictures, which are shown before it."""
    return (_IMAGE_TAG.sub("", text) if "<" in text else text).strip()


def reference_of(row: Row, fields: Fields) -> tuple[int, int] | None:
    """(rounds, searches) that a question is known to need: the authors' `tool_call` and `parallel`. Raises BadRow."""
    rounds, searches = fields.get(row, "tool_calls"), _unpacked(fields.get(row, "searches"))
    if isinstance(rounds, str) and not rounds.isdigit():
        rounds = None  # a conversation's tool call, which is no number
    if isinstance(rounds, list) or searches is None or rounds is None:
        return None
    try:
        counts = [int(count) for count in _listed(searches)]
        pair = int(rounds), sum(counts)
    except (TypeError, ValueError):
        raise BadRow("no reference", "'tool_call' must be a number, and 'parallel' a list of numbers") from None
    if min((*pair, *counts)) < 0:
        raise BadRow("no reference", "'tool_call' and 'parallel' must not be negative")
    return pair


def plain_value(value: Any) -> Any:
    """A value that JSON can hold, for `meta`: bytes and pictures are left out, dates written as text. A number that is
    none, or infinite, is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, list | tuple):
        return [plain_value(part) for part in value if not isinstance(part, bytes)]
    if isinstance(value, Mapping):
        return {str(name): plain_value(part) for name, part in value.items() if not isinstance(part, bytes)}
    return str(value) if not isinstance(value, bytes) else None


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _unpacked(value: Any) -> Any:
    """What JSON in a text holds, where a text holds a list; other values as they are."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _texts(value: Any) -> Any:
    """The texts that JSON in a text lists, as a cell of a table holds them; other values as they are."""
    listed = _unpacked(value)
    return listed if isinstance(listed, list) and all(isinstance(part, str) for part in listed) else value


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_gap(value: Any) -> bool:
    """Whether it is what tables of numbers hold where there is nothing."""
    return isinstance(value, float) and not math.isfinite(value)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def first(values: Iterable[Any]) -> Any:
    """The first that is not None; None if all are."""
    return next((value for value in values if value is not None), None)
