"""Finding what a row means: the names that data sets use for the same thing."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any

from hypereyes_jax.data.sources.media import Clip, Picture, picture
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.env.web.untrusted import parse_json

NAMES: dict[str, tuple[str, ...]] = {  # our field -> columns, the first that is there counts
    "id": ("id", "data_id", "sample_id", "question_id", "qid", "uid", "uuid", "index", "idx"),
    "text": ("text", "question", "query", "prompt", "problem", "instruction", "user_prompt"),
    "answers": (
        "answers",
        "golden_answers",
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
_TAKEN = frozenset(name for field, names in NAMES.items() if field != "kind" for name in names)
_SHORT = ("text", "answers", "id", "kind")  # fields of the commonest rows, which have a short way to be read
_SHAPED = frozenset(("level1_qa", "level2_qa", "reward_model", "extra_info"))  # columns that tell a shape of rows
_OURS = frozenset(("id", "text", "answers"))  # columns that are there in what this project writes
_MOST_LEVELS = 100  # of lists and objects in a row
_KNOWN_LAYOUTS = 1024  # of rows whose columns differ, kept
_NUMBERED = re.compile(r"(?:img|image)_(\d+)")
_TEXT = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_PYTHON_LIST = re.compile(rf"\[\s*{_TEXT}(?:\s*,\s*{_TEXT})*\s*,?\s*\]")  # as pandas writes a list to CSV
_IMAGE_TAG = re.compile(r"<(?:image|video)>\n?|<\|image_pad\|>|<\|vision_start\|><\|image_pad\|><\|vision_end\|>")


class Fields:
    """Columns by meaning, as `--columns` names them or as data sets are wont to."""

    def __init__(self, columns: Mapping[str, str]):
        """Raises ValueError for a field that there is none of."""
        unknown = sorted(set(columns) - set(NAMES))
        if unknown:
            raise ValueError(f"there is no field {', '.join(unknown)}; there are {', '.join(NAMES)}")
        self.columns = dict(columns)
        self._layouts: dict[tuple[str, ...], Layout] = {}

    def layout(self, row: Row) -> Layout:
        """What the columns of a row mean, which is found once for all rows that have the same ones."""
        columns = tuple(row)
        layout = self._layouts.get(columns)
        if layout is None:
            if len(self._layouts) >= _KNOWN_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[columns] = Layout(columns, self.columns)
        return layout


class Layout:
    """What columns mean, of rows that have the same columns.

    named: our field -> column, as `--columns` has it.
    fields: those that the columns may give a value, with those that were named.
    numbered: columns of pictures that are counted (img_1, image_2, ...), in that order.
    rest: columns that no field takes, but those of pictures.
    ours: whether the columns are those of this project's own rows.
    short: columns of text, answers, id and kind, each one or None, where the rows have no other field; else None.
    """

    def __init__(self, columns: Sequence[str], named: Mapping[str, str]):
        self.named = named
        self._columns = {field: tuple(name for name in names if name in columns) for field, names in NAMES.items()}
        self.fields = frozenset(named) | {field for field, names in self._columns.items() if names}
        matches = [(match, name) for name in columns if (match := _NUMBERED.fullmatch(name))]
        self.numbered = tuple(name for match, name in sorted(matches, key=lambda pair: int(pair[0][1])))
        used = _TAKEN | columns_of(named)
        self.rest = tuple(name for name in columns if name not in used and not name.startswith(("img_", "image_")))
        self.ours = not named and set(columns) >= _OURS
        self.short: tuple[str | None, ...] | None = None
        if (
            not (named or self.numbered or self.ours)
            and {"text", "answers"} <= self.fields <= frozenset(_SHORT)
            and _SHAPED.isdisjoint(columns)
            and all(len(self._columns[field]) <= 1 for field in _SHORT)
        ):
            self.short = tuple(next(iter(self._columns[field]), None) for field in _SHORT)

    def get(self, row: Row, name: str) -> Any:
        """The value of a field; None where the row has none. A column that was named must be there (BadRow)."""
        if name in self.named:
            return self._named(row, name)
        for column in self._columns[name]:
            value = row.get(column)
            if value is not None:
                return value
        return None

    def _named(self, row: Row, name: str) -> Any:
        if self.named[name] in row:  # a column may have a dot in its name
            return row[self.named[name]]
        value: Any = row
        for part in self.named[name].split("."):  # "extra_info.question"
            if not isinstance(value, Mapping) or part not in value:
                raise BadRow(
                    f"no column {self.named[name]}",
                    f"it has no column {self.named[name]!r}, which {name} was said to be in; it has "
                    f"{', '.join(map(repr, row))[:300]}",
                )
            value = value[part]
        return value


def columns_of(named: Mapping[str, str]) -> set[str]:
    """Columns that `--columns` may mean: "a.b" is the part b of a, or a column of that name."""
    return {part for name in named.values() for part in (name, name.partition(".")[0])}


def text_of(value: Any, what: str) -> str:
    """A text. Raises BadRow for anything else, and for an empty one."""
    if not isinstance(value, str):
        raise BadRow(f"no {what}", f"it needs {what!r}, a text, not {_kind(value)}")
    if not value.strip():
        raise BadRow(f"no {what}", f"its {what!r} is empty")
    return value


def id_of(value: Any, default: str) -> str:
    """An id as text: a whole number is fine, as tables with gaps hold it too (5.0). Raises BadRow."""
    if type(value) is int:
        return str(value)
    if isinstance(value, str):
        return str(value) if value.strip() else default
    if value is None or _is_gap(value):
        return default
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRow("no id", f"its 'id' must be a text or an integer, not {_kind(value)}")
    return str(value)


def answers_of(value: Any, more: Any = None, *, exact: bool = False) -> tuple[str, ...]:
    """Accepted answers, the reference first, each once. Numbers are written out; literal <answer> tags are dropped.

    Args:
      value: a text, a number, or a list of these, which a text may hold as JSON, or Search-R1's {"target": ...} of it.
      more: accepted besides: a list, or one in JSON in a text.
      exact: take texts as they are, which are ours.

    Raises BadRow.
    """
    answers: list[str] = []
    if isinstance(value, Mapping) and tuple(value) == ("target",):
        value = value["target"]
    listed = _listed(_texts(value))
    for answer in listed if more is None else [*listed, *_listed(_more(more))]:
        if isinstance(answer, str):
            text = answer
        elif answer is None or _is_gap(answer):
            continue
        else:
            text = _written_out(answer)
        if not exact:
            text = (re.sub(r"</?answer>", "", text) if "<" in text else text).strip()
        if exact or (text and text not in answers):
            answers.append(text)
    if not answers or (exact and not any(map(str.strip, answers))):
        raise BadRow("no answer", "it needs 'answers', texts of which the first is the reference")
    return tuple(answers)


def _written_out(answer: Any) -> str:
    """An answer that is not text. Raises BadRow for what can't be one."""
    if isinstance(answer, bool) or not isinstance(answer, int | float | Decimal | date | time):
        part = "; a part of it is named by --columns answers=COLUMN.PART" if isinstance(answer, Mapping) else ""
        raise BadRow("no answer", f"its 'answers' must be texts, not {_kind(answer)}{part}")
    return str(answer)


def pictures_of(row: Row, layout: Layout) -> tuple[Picture, ...]:
    """All of a row's pictures, in order. Raises BadRow."""
    value = layout.get(row, "images")
    if value is None and "images" not in layout.named:
        value = [row[name] for name in layout.numbered if not _is_blank(row[name])]
        return tuple(map(picture, value)) if value else ()
    return pictures_in(value)


def pictures_in(value: Any) -> tuple[Picture, ...]:
    """The pictures that a column of them holds: one, a list, or a list in JSON in a text. Raises BadRow."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = unpacked(value)
    if isinstance(value, str) and _PYTHON_LIST.fullmatch(value.strip()):
        value = ast.literal_eval(value.strip())
    return tuple(picture(part) for part in _listed(value) if not _is_blank(part))


def clips_of(row: Row, layout: Layout) -> tuple[Clip, ...]:
    """All of a row's videos, in order. Raises BadRow."""
    value = layout.get(row, "videos")
    if value is None:
        return ()
    return tuple(Clip(picture(part)) for part in _listed(unpacked(value)) if not _is_blank(part))


def without_image_tags(text: str) -> str:
    """A question's text without the places of its pictures, which are shown before it."""
    return (_IMAGE_TAG.sub("", text) if "<" in text else text).strip()


def reference_of(row: Row, layout: Layout) -> tuple[int, int] | None:
    """(rounds, searches) that a question is known to need: the authors' `tool_call` and `parallel`. Raises BadRow."""
    rounds, searches = layout.get(row, "tool_calls"), unpacked(layout.get(row, "searches"))
    if rounds is None or searches is None or isinstance(rounds, list):
        return None
    if isinstance(rounds, str) and not rounds.isdigit():
        return None  # a conversation's tool call, which is not a number
    try:
        counts = [int(count) for count in _listed(searches)]
        pair = int(rounds), sum(counts)
    except (TypeError, ValueError, OverflowError):
        raise BadRow("no reference", "'tool_call' must be a number, and 'parallel' a list of numbers") from None
    if min((*pair, *counts)) < 0:
        raise BadRow("no reference", "'tool_call' and 'parallel' must not be negative")
    return pair


def plain_value(value: Any, levels: int = _MOST_LEVELS) -> Any:
    """A value that JSON can hold, for `meta`: bytes and pictures are left out, dates written as text. A number that is
    none, or infinite, is null. Raises BadRow for lists and objects in more than `levels` levels."""
    if levels < 0:
        raise nested_too_deep()
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, list | tuple):
        return [plain_value(part, levels - 1) for part in value if not isinstance(part, bytes)]
    if isinstance(value, Mapping):
        return {str(name): plain_value(part, levels - 1) for name, part in value.items() if not isinstance(part, bytes)}
    return str(value) if not isinstance(value, bytes) else None


def nested_too_deep() -> BadRow:
    """What to say of a row whose lists and objects hold one another in too many levels to be read."""
    return BadRow("nested too deep", f"its lists and objects nest in more than {_MOST_LEVELS} levels")


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def unpacked(value: Any) -> Any:
    """What JSON in a text holds, where a text holds a list; other values as they are."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _more(value: Any) -> Any:
    """What a column of accepted answers holds, where it holds them in JSON in a text: a list, a text or nothing."""
    if isinstance(value, str):
        try:
            inner = parse_json(value)
        except ValueError:
            return value
        return inner if inner is None or isinstance(inner, list | str) else value
    return value


def _texts(value: Any) -> Any:
    """The texts that JSON in a text lists, as a cell of a table holds them; other values as they are."""
    if not isinstance(value, str):
        return value
    listed = unpacked(value)
    return listed if isinstance(listed, list) and all(isinstance(part, str) for part in listed) else value


def _is_blank(value: Any) -> bool:
    """Whether a cell holds no picture: nothing, a blank text, or, as some write it, {"bytes": null, "path": null}."""
    if isinstance(value, Mapping):
        return not any(value.values())
    return value is None or (isinstance(value, str) and not value.strip())


def _is_gap(value: Any) -> bool:
    """Whether it is what tables of numbers hold where there is nothing."""
    return isinstance(value, float) and not math.isfinite(value)


def _kind(value: Any) -> str:
    if isinstance(value, bytes | Picture):  # of a column of texts that is marked as binary, too
        return "bytes (a column of texts must be of the type string)"
    return "nothing" if value is None else f"a {type(value).__name__}"


def first(values: Iterable[Any]) -> Any:
    """The first that is not None; None if all are."""
    return next((value for value in values if value is not None), None)
