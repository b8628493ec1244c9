"""What the values of a row mean: texts, ids, answers and pictures, in the forms that data sets have them in."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypereyes_jax.data.sources.columns import Layout
from hypereyes_jax.data.sources.media import UNREAD, Clip, Picture, is_picture_file, names_picture, picture
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.env.web.untrusted import RepeatedKey, json_or_none, parse_json

_MOST_LEVELS = 100  # of lists and objects in a row
_TEXT = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
# As pandas writes a list of texts to CSV, and an array of them, which has no commas.
_PYTHON_LIST = re.compile(rf"\[\s*{_TEXT}(?:(?:\s*,\s*|\s+){_TEXT})*\s*,?\s*\]")
_PYTHON_OBJECT = re.compile(r"\s*\{\s*'")
_LONGEST_LITERAL = 65_536  # characters of an object as Python writes it
_ANSWER_PARTS = ("target", "value", "answer", "text")  # of an answer that is an object, as Search-R1, TriviaQA and
# VQA have them, and SQuAD
_TRUTHS = {True: ("Yes", "True"), False: ("No", "False")}  # how the answer to a question is said
GAPS = frozenset(("nan", "<NA>"))  # what pandas writes of no answer when it makes texts of a column
_NOTHING = frozenset(("nan", "none", "null"))  # what tables as texts hold where there is nothing
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THOUGHTS = re.compile(r"\s*<(think|reason)>.*?</\1>", re.DOTALL)
_IMAGE_PLACE = re.compile(r"<image>|<\|image_pad\|>")
# A place of a picture as other models' templates write it (Llama, InternLM, Gemma, MiniCPM, LLaVA), and one that says
# which, as MMMU's `<image 2>` and Phi's `<|image_2|>`.
FOREIGN_PLACE = (
    r"\(<image>\./</image>\)|<\|image\|>|<image_placeholder>|<image_here>|<ImageHere>|<start_of_image>|<IMAGE>|<Image>"
)
_FOREIGN_PLACES = re.compile(FOREIGN_PLACE)
_COUNTED_TAG = re.compile(r"<\|?(?:image|img)[ _]?(\d{1,2})\|?>", re.IGNORECASE)
_IMAGE_TAG = re.compile(
    r"(?:<(?P<kind>image|video)>|<\|(?P<bare>image|video)_pad\|>"
    r"|<\|vision_start\|><\|(?P<pad>image|video)_pad\|><\|vision_end\|>)(?P<end>\n?)"
)


def text_of(value: Any, what: str) -> str:
    """A text. Raises BadRow for anything else, and for an empty one."""
    if not isinstance(value, str):
        raise BadRow(f"no {what}", f"it needs {what!r}, a string, not {_kind(value)}")
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
    if isinstance(value, UUID):  # a type of parquet's
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRow("no id", f"its 'id' must be a string or an integer, not {_kind(value)}")
    return str(value)


def answers_of(value: Any, more: Any = None, *, exact: bool = False) -> tuple[str, ...]:
    """Accepted answers, the reference first, each once. Numbers are written out; of a reply, its answer counts.

    Args:
      value: a text, a number, or a list of these, which a text may hold as JSON or as Python writes it, or an object of
        which one part is the answer, as {"value": ..., "aliases": [...]}, or a list of such objects.
      more: accepted besides: a list, or one in JSON in a text. Ranges of numbers, as InfoSeek has them, are left out.
      exact: take texts as they are, which are ours.

    Raises BadRow.
    """
    answers: list[str] = []
    listed = _listed(_texts(value, exact))
    if not exact and any(isinstance(part, Mapping) for part in listed):
        listed = [answer for part in listed for answer in _answers_in(part)]
    if more is not None:
        listed = [
            *listed,
            *(part for part in _listed(_more(more)) if not (isinstance(part, Mapping) and "range" in part)),
        ]
    if not exact:
        listed = [word for part in listed for word in (_TRUTHS[part] if isinstance(part, bool) else (part,))]
    for answer in listed:
        if isinstance(answer, str):
            text = answer
        elif answer is None or _is_gap(answer):
            continue
        else:
            text = _written_out(answer)
        if not exact:
            text = (_answer_of_reply(text) if "<" in text else text).strip()
        if exact or (text and text not in answers and text not in GAPS):
            answers.append(text)
    if not answers or (exact and not any(map(str.strip, answers))):
        raise BadRow("no answer", "it needs 'answers', texts of which the first is the reference")
    return tuple(answers)


def answer_in(text: str) -> str | None:
    """What stands in the last <answer> of a turn; None without one."""
    matches = _ANSWER.findall(text)
    return matches[-1].strip() if matches else None


def _answer_of_reply(text: str) -> str:
    """The answer in what a model said: what its tags hold, else what it says after its thoughts."""
    inside = answer_in(text)
    return re.sub(r"</?answer>", "", _THOUGHTS.sub("", text, count=1)) if inside is None else inside


def _answers_in(part: Any) -> list[Any]:
    """The answers that an object holds; of anything else, or where several of its parts may be meant, that itself."""
    names = _part_names(part) if isinstance(part, Mapping) else []
    if len(names) != 1:
        return [part]
    return [*_listed(part[names[0]]), *_listed(part.get("aliases"))]


def _part_names(answer: Mapping[str, Any]) -> list[str]:
    return [name for name in _ANSWER_PARTS if name in answer]


def _object_in(text: str) -> Any:
    """The object that a text holds in JSON, as a table without nested types has it; None for anything else."""
    return json_or_none(text) if text.lstrip().startswith("{") and text.rstrip().endswith("}") else None


def _written_out(answer: Any) -> str:
    """An answer that is not text. Raises BadRow for what can't be one."""
    if isinstance(answer, bool) or not isinstance(answer, int | float | Decimal | date | time):
        part = "; a part of it is named by --columns answers=COLUMN.PART" if isinstance(answer, Mapping) else ""
        raise BadRow("no answer", f"its 'answers' must be strings, not {_kind(answer)}{part}")
    if isinstance(answer, datetime) and answer.time() == time.min:  # a day, in a table that has no other type for it
        answer = answer.date()
    if isinstance(answer, float) and answer.is_integer() and abs(answer) < 1e15:
        answer = int(answer)  # of a column of whole numbers with gaps
    return str(answer)


def pictures_of(row: Row, layout: Layout) -> tuple[Picture, ...]:
    """All of a row's pictures, in order. Raises BadRow."""
    for value in layout.values(row, "images"):
        if pictures := pictures_in(value):
            return pictures
    if "images" in layout.named:
        return ()
    return tuple(picture(row[name]) for name in layout.numbered if not is_blank(row[name]))


def pictures_in(value: Any) -> tuple[Picture, ...]:
    """The pictures that a column of them holds: one, a list, or a list in a text. Raises BadRow."""
    parts = _listed(listed_in(value))
    flat = [inner for part in parts for inner in (part if isinstance(part, list | tuple) else (part,))]
    return tuple(picture(part) for part in flat if not is_blank(part))


def looks_like_picture(value: Any) -> bool:
    """Whether a value is a picture, or names one, told without opening anything."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(looks_like_picture, value[:8]))
    if isinstance(value, Mapping):
        return "bytes" in value and any(looks_like_picture(value.get(name)) for name in ("bytes", "path"))
    if isinstance(value, bytes):
        return is_picture_file(value)
    return value is UNREAD or (isinstance(value, str) and names_picture(value))


def clips_of(row: Row, layout: Layout) -> tuple[Clip, ...]:
    """All of a row's videos, in order. Raises BadRow."""
    value = layout.get(row, "videos")
    if value is None:
        return ()
    return tuple(Clip(picture(part)) for part in _listed(unpacked(value)) if not is_blank(part))


def image_places(text: str) -> int:
    """How many places of pictures a text has."""
    return len(_IMAGE_PLACE.findall(in_our_places(text))) if "<" in text else 0


def in_our_places(text: str) -> str:
    """A text with <image> at the places of pictures that other models' templates mark."""
    return _FOREIGN_PLACES.sub("<image>", text) if "<" in text else text


def without_image_tags(text: str) -> str:
    """A question's text without the places of its pictures, which are shown before it.

    Where pictures stand among the words ("Is <image> older than <image>?"), their ids take their places.
    """
    if "<" not in text:
        return text.strip()
    text = in_our_places(text)
    tags = list(_IMAGE_TAG.finditer(text))
    # Where words begin and end, outside of tags.
    begins = [0, *(tag.end() for tag in tags)]
    ends = [*(tag.start() for tag in tags), len(text)]
    spoken = [place for place, (begin, end) in enumerate(zip(begins, ends, strict=True)) if text[begin:end].strip()]
    if not spoken:
        return ""
    among = any(_of_image(tags[place]) for place in range(spoken[0], spoken[-1]))
    parts, number = [text[: ends[0]]], 0
    for place, tag in enumerate(tags):
        begin, end = begins[place + 1], ends[place + 1]
        if _of_image(tag):
            if among and place >= spoken[0]:
                parts.append(
                    f"img_{number}{tag['end']}" + (" " if text[begin : begin + 1].isalnum() and not tag["end"] else "")
                )
            number += 1
        parts.append(text[begin:end])
    return "".join(parts).strip()


def with_image_ids(text: str, images: int) -> str:
    """A text that so many images are shown with, in which their ids take the places that count them, as MMMU's
    `<image 2>`: from 1, or from 0 if one of them is 0. Others stay as they are."""
    if "<" not in text:
        return text
    numbers = [int(number) for number in _COUNTED_TAG.findall(text)]
    first = 0 if 0 in numbers else 1

    def name(tag: re.Match[str]) -> str:
        number = int(tag[1]) - first
        return f"img_{number}" if 0 <= number < images else tag[0]

    return _COUNTED_TAG.sub(name, text)


def _of_image(tag: re.Match[str]) -> bool:
    return "image" in (tag["kind"], tag["bare"], tag["pad"])


def reference_of(row: Row, layout: Layout) -> tuple[int, int] | None:
    """(rounds, searches) that a question is known to need: the authors' `tool_call` and `parallel`. Raises BadRow."""
    rounds, searches = layout.get(row, "tool_calls"), unpacked(layout.get(row, "searches"))
    if rounds is None or searches is None or isinstance(rounds, list) or (_is_gap(rounds) and _is_gap(searches)):
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


def listed_in(value: Any) -> Any:
    """What a list in a text holds, in JSON or as Python writes texts; other values as they are."""
    value = unpacked(value)
    return _texts_in(value) or value


def _texts_in(value: Any) -> list[str] | None:
    """The texts of a list that a text holds as Python or NumPy writes it; None for anything else."""
    if not (isinstance(value, str) and value.lstrip().startswith("[") and _PYTHON_LIST.fullmatch(value.strip())):
        return None
    try:
        return [ast.literal_eval(match[0]) for match in re.finditer(_TEXT, value)]
    except (ValueError, SyntaxError):  # as of a broken escape
        return None


def unpacked(value: Any) -> Any:
    """What JSON in a text holds, where a text holds a list; other values as they are."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _more(value: Any) -> Any:
    """What a column of accepted answers holds, where a text holds them: a list, in JSON or as Python writes it, or in
    JSON a text or nothing."""
    if isinstance(value, str):
        try:
            inner = parse_json(value)
        except ValueError:
            return _texts_in(value) or value
        return inner if inner is None or isinstance(inner, list | str) else value
    return value


def _texts(value: Any, only_json: bool) -> Any:
    """The texts that a list in a text holds, or the answer that an object in one is; other values as they are."""
    if not isinstance(value, str):
        return value
    if not only_json and isinstance(inner := _object_in(value), Mapping) and _part_names(inner):
        return inner
    listed = unpacked(value) if only_json else listed_in(value)
    if not isinstance(listed, list):
        return value
    if not only_json and listed and all(isinstance(part, Mapping) and _part_names(part) for part in listed):
        return listed
    return listed if all(isinstance(part, str) for part in listed) else value


def call_in(text: str) -> Any:
    """What a tool call, or its arguments, hold as a text: JSON, or an object as Python writes it, which data sets of
    function calls have, too.

    Raises ValueError for anything else, and RepeatedKey for an object in JSON that has a key twice.
    """
    try:
        return parse_json(text, unique=True)
    except RepeatedKey:
        raise
    except ValueError:
        if not (_PYTHON_OBJECT.match(text) and len(text) <= _LONGEST_LITERAL):
            raise
    try:
        return plain_value(ast.literal_eval(text.strip()))
    except (BadRow, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no object of Python's ({error})") from None


def is_blank(value: Any) -> bool:
    """Whether a cell holds no picture: nothing, a blank text, or, as some write it, {"bytes": null, "path": null}."""
    if isinstance(value, Mapping | list):
        return all(map(is_blank, value.values() if isinstance(value, Mapping) else value))
    if isinstance(value, str | bytes) and not value:
        return True
    if isinstance(value, str):
        return not value.strip() or (len(value) < 8 and value.strip().lower() in _NOTHING)
    return value is None or _is_gap(value)


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
