"""What the model wrote, read once: environment, reward and metrics all use the action parsed here.

A turn is `<reason>...</reason>` (or `<think>`) followed by `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`
(one or several) or `<answer>...</answer>`. Unified grounded search: one image_search carries many boxes, one
text_search many queries. The text comes from a model and is never trusted: any string parses, in time linear in its
length; what is wrong with it is data, not an exception.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hypereyes_jax.env.published_counts import published_counts
from hypereyes_jax.env.reasoning import open_thought, read_leading_reasons, read_reason, turn_of
from hypereyes_jax.env.tag_text import (
    ANSWER,
    ANSWER_END,
    CALL,
    CALL_END,
    JSON,
    MOST_CALL_CHARACTERS,
    MOST_TAGS,
    OPENINGS,
    REASONS,
    TagText,
    skip_space,
)
from hypereyes_jax.env.types import Box, finite_box
from hypereyes_jax.env.web.untrusted import encodable, json_or_none, parse_json

IMAGE_SEARCH = "image_search"
TEXT_SEARCH = "text_search"

# A turn of 1,524 tokens, the paper's limit, is far inside these, MOST_TAGS and MOST_CALL_CHARACTERS.
MOST_ENTRIES = 1024  # boxes, queries or image ids of a call that are read; the others are counted
MOST_IGNORED = 3  # fields of a call that the model is told were not read
_MOST_COMPARED = 8192  # characters of a call in which fields that are given twice are looked for

_SPECIAL = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
_CALL_FIELDS = ("name", "arguments", "id", "type")  # the last two are of OpenAI's form, and say nothing
_HALF_CLOSED = re.compile(r"</ ?(?:a(?:n(?:s(?:w(?:e(?:r ?>?)?)?)?)?)?)?\Z", re.IGNORECASE)
# How models call that have formats of their own, and how ours misspell its tag.
_OTHER_CALL = re.compile(
    r"<\|?/? ?(?:tool_?calls?|function_?calls?)\b|<function=|\[TOOL_CALLS\]|<\|python_tag\|>|<\|tool_call|<\uff5ctool"
    r"|\bto=functions\.|^```tool_code\b|^Action Input:",
    re.IGNORECASE | re.MULTILINE,
)
_REST = "what follows the JSON of a tool call was not read"
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs that are drawn as nothing
_READ_FIELDS = ("name", "arguments", "input", "image_id", "img_id", "area")
_FIELD = re.compile(rf'"({"|".join(_READ_FIELDS)})\\*"\s*:')


@dataclass(frozen=True)
class ImageSearch:
    """Search whole images (no boxes) or regions of them. A box is as written, in the episode's units."""

    image_id: str  # "img_0", or several joined by "|"
    boxes: tuple[Box | None, ...] = ()  # None = an entry that was not four finite numbers
    unread: int = 0  # boxes beyond MOST_ENTRIES
    ignored: tuple[str, ...] = field(default=(), compare=False)  # names of fields that are not of this call

    @property
    def image_ids(self) -> tuple[str, ...]:
        parts = self.image_id.split("|", MOST_ENTRIES)[:MOST_ENTRIES]
        return tuple(part.strip() for part in parts if part.strip()) or (self.image_id,)

    @property
    def entries(self) -> int:
        """What is asked for, whether it can be searched or not."""
        return len(self.image_ids) * max(1, len(self.boxes) + self.unread)

    @property
    def invocations(self) -> int:
        """Searches asked for. A box that has no inside in whatever units asks for none."""
        if not self.boxes:
            return len(self.image_ids)
        return len(self.image_ids) * (sum(map(_has_inside, self.boxes)) + self.unread)


@dataclass(frozen=True)
class TextSearch:
    """Search for texts, all at once."""

    queries: tuple[str, ...]
    unread: int = 0  # queries beyond MOST_ENTRIES
    unusable: int = 0  # entries that were not texts; none of them is a search
    ignored: tuple[str, ...] = field(default=(), compare=False)  # names of fields that are not of this call

    @property
    def entries(self) -> int:
        """What is asked for and is a text."""
        return len(self.queries) + self.unread

    @property
    def invocations(self) -> int:
        return self.entries


@dataclass(frozen=True)
class ToolCall:
    """A call of any other tool; its arguments are for the tool to read."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    searches: int = 0  # 1 where the tool counts as a search

    @property
    def invocations(self) -> int:
        return self.searches


@dataclass(frozen=True)
class Answer:
    """The answer that ends an episode."""

    text: str
    closed: bool = True  # an unclosed answer ends the episode but is a format failure


@dataclass(frozen=True)
class Malformed:
    """Nothing usable. `is_call`: it was at least meant as a tool call, and the model is told what is wrong with it."""

    why: str
    is_call: bool = False
    broken_json: bool = False

    @property
    def invocations(self) -> int:
        return 0


Call = ImageSearch | TextSearch | ToolCall | Malformed


@dataclass(frozen=True)
class ParsedTurn:
    """One turn of the model.

    `action` is what the turn does: its first non-empty answer, else its first usable call, else what was wrong. `calls`
    holds every call of the turn in order, the malformed ones too; an environment may run them all together.
    `invocations` is the number of atomic searches asked for; 0 in a turn that answers. What counts in t_c and t_s is
    what was sent of them, which an environment knows (`TurnRecord`).
    """

    reason: str
    action: ImageSearch | TextSearch | ToolCall | Answer | Malformed
    calls: tuple[Call, ...]
    invocations: int

    @property
    def is_round(self) -> bool:
        """Whether the turn asks for a search. An empty list, or a call that nobody can read, asks for none."""
        return self.invocations > 0 and not isinstance(self.action, Answer)


def parse_turn(
    text: str,
    *,
    published_counting: bool = False,
    tools: Mapping[str, bool] | None = None,
    plain_answers: bool = False,
) -> ParsedTurn:
    """Reads one assistant turn. Never raises.

    What stands inside a closed <reason> or <think> is reasoning, whatever tags it names, in an answer, too. An unclosed
    one ends where the next tag opens, and an unclosed last call or answer runs to the end of the text; but an unclosed
    answer in front of a call that can be run is not an answer.

    Args:
      text: what the model wrote, with or without its stop token.
      published_counting: count `invocations` as the authors' published reward does (`published_counts`), instead of
        counting the searches themselves.
      tools: further tools that may be called, by name, and whether a call of each counts as a search.
      plain_answers: a turn without tags of calls and answers is an answer, its reasoning left out: how models answer
        whose function calling is their own.
    """
    tools = tools or {}
    clean = text if text.isascii() else encodable(text)
    for mark in _SPECIAL:
        clean = clean.replace(mark, "")
    turn = turn_of(clean)
    clean = turn.text
    calls = list[Call]()
    answer: Answer | None = None
    unclosed: Answer | None = None
    outside: list[str] = []
    tags = 0
    reason, position = open_thought(turn, plain_answers)
    while (start := turn.first(OPENINGS, position)) is not None:
        if tags == MOST_TAGS:
            calls.append(Malformed(f"only the first {MOST_TAGS} tags of a turn are read", is_call=True))
            break
        tags += 1
        at, tag = start
        outside.append(clean[position:at])
        body = at + len(tag)
        if tag in REASONS:
            tag_reason, position = read_reason(turn, tag, body)
            reason = reason or tag_reason
        elif tag == CALL:
            tag_calls, position = _read_calls(turn, body, tools)
            calls += tag_calls
        else:
            thought, body = read_leading_reasons(turn, body)
            reason = reason or thought
            end = turn.find(ANSWER_END, body)
            if end is not None:
                position = end + len(ANSWER_END)
                # Of answers within one another the innermost is closed; the others were only begun.
                if answer is None and _shows(content := clean[body:end].rpartition(ANSWER)[2].strip()):
                    answer = Answer(content)
                continue
            following = turn.find(CALL, body)
            if _shows(content := _HALF_CLOSED.sub("", clean[body:].strip())):
                unclosed = unclosed or Answer(content, closed=False)
            position = len(clean) if following is None else following
    outside.append(clean[position:] if tags < MOST_TAGS else "")

    if not tags:
        reason = reason or clean.strip()
    usable = next((call for call in calls if not isinstance(call, Malformed)), None)
    if answer is None and usable is None:
        answer = unclosed
    if plain_answers and answer is None and not calls and _shows(content := "".join(outside).strip()):
        if _calls_otherwise(content, tools):
            calls.append(Malformed("a tool call is written as <tool_call>{...}</tool_call>, which was not found", True))
        else:
            answer, reason = Answer(content), reason if reason != content else ""
    action = answer or usable or (calls[0] if calls else Malformed("neither a tool call nor an answer was found"))
    if published_counting:
        count = published_counts(text)[1]
    else:
        count = 0 if answer else sum(call.invocations for call in calls)
    return ParsedTurn(reason=reason, action=action, calls=tuple(calls), invocations=count)


def _calls_otherwise(text: str, tools: Mapping[str, bool]) -> bool:
    """Whether a text without tags is a call of a tool in another format, and no answer."""
    if _OTHER_CALL.search(text):
        return True
    start = text.find("{")
    value = json_or_none(text[start : text.rfind("}") + 1]) if 0 <= start < 32 else None  # "```json" may precede it
    return isinstance(value, dict) and value.get("name") in (IMAGE_SEARCH, TEXT_SEARCH, *tools)


def tool_call(action: ImageSearch | TextSearch | ToolCall) -> str:
    """Writes an action as the tag the parser reads, compactly: `parse_turn(tool_call(a)).action == a`.

    Coordinates may be numbers of any kind, numpy's too; each is written as the shortest text that tells it from others
    of its precision. Arguments of other tools may hold arrays and numbers of numpy.
    """
    arguments: dict[str, Any]
    if isinstance(action, ImageSearch):
        name, arguments = IMAGE_SEARCH, {"image_id": action.image_id}
        if action.boxes:
            arguments["area"] = [
                None if box is None or finite_box(box) is None else [_short(value) for value in box]
                for box in action.boxes
            ]
    elif isinstance(action, TextSearch):
        name, arguments = TEXT_SEARCH, {"input": list(action.queries)}
    else:
        name, arguments = action.name, dict(action.arguments)
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, default=_as_json)
    return f"<tool_call>{body}</tool_call>"


def _read_calls(turn: TagText, start: int, tools: Mapping[str, bool]) -> tuple[list[Call], int]:
    """Reads the JSON values of the call whose tag ends at `start`. They say where it ends: a query may hold any tag."""
    text, calls = turn.text, list[Call]()
    window = text[start : start + MOST_CALL_CHARACTERS]
    at = 0
    while True:
        at = skip_space(window, at)
        if calls and (at == len(window) or window[at] == "<"):
            break
        begun = at
        try:
            value, at = JSON.raw_decode(window, at)
        except (ValueError, RecursionError):
            if not calls:
                closing = turn.find(CALL_END, start)
                long = len(window) == MOST_CALL_CHARACTERS and (closing is None or closing >= start + len(window))
                why = f"the tool call is not valid JSON{' of at most 65,536 characters' if long else ''}"
                calls.append(Malformed(why, is_call=True, broken_json=True))
            else:
                calls.append(Malformed(_REST, is_call=True))
            break
        listed = value if isinstance(value, list) and value else [value]
        calls += [read_call(each, tools) for each in listed[:MOST_TAGS]]
        if twice := _given_twice(window[begun:at]):
            why = f"a tool call gives {', '.join(map(repr, twice))} twice: only the last of each was read"
            calls.append(Malformed(why, is_call=True))
        at = skip_space(window, at)
        if window[at : at + 1] == ",":
            at = skip_space(window, at + 1)
        if len(calls) >= MOST_TAGS:
            if len(listed) > MOST_TAGS or (at < len(window) and window[at] != "<"):
                calls.append(Malformed(f"only the first {len(calls)} calls of a <tool_call> are read", is_call=True))
            break
    end, again = turn.find(CALL_END, start + at), turn.find(CALL, start + at)
    if end is not None and (again is None or end < again):
        if not isinstance(calls[-1], Malformed) and text[start + at : end].strip():
            calls.append(Malformed(_REST, is_call=True))
        return calls, end + len(CALL_END)  # what a closed call encloses is not an answer
    following = turn.first(OPENINGS, start + at)
    return calls, len(text) if following is None else following[0]


def _given_twice(call: str) -> tuple[str, ...]:
    """The fields that an object of a call's JSON gives more than once: JSON keeps the last, whatever the first said."""
    names = _FIELD.findall(call[:_MOST_COMPARED])
    if len(set(names)) == len(names):
        return ()
    twice = dict[str, None]()

    def compare(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            twice.update(dict.fromkeys(name for name in fields if names.count(name) > 1 and name in _READ_FIELDS))
        if isinstance(written := fields.get("arguments"), str):
            with contextlib.suppress(ValueError, RecursionError):
                json.loads(written, object_pairs_hook=compare)
        return fields

    json.loads(call, object_pairs_hook=compare)
    return tuple(twice)


def read_call(value: Any, tools: Mapping[str, bool] | None = None) -> Call:
    """The JSON value of a tool call, {"name": ..., "arguments": {...}}, as an action; never raises.

    Args:
      tools: as `parse_turn` takes them.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return Malformed('the tool call needs the fields "name" and "arguments"', is_call=True)
    name, arguments = value["name"], value.get("arguments")
    if isinstance(arguments, str):
        arguments = json_or_none(arguments)
    tools = tools or {}
    if name not in (IMAGE_SEARCH, TEXT_SEARCH) and name not in tools:
        names = " and ".join([", ".join([IMAGE_SEARCH, TEXT_SEARCH, *tools][:-1]), [TEXT_SEARCH, *tools][-1]])
        return Malformed(f"unknown tool {encodable(name)[:40]!r}; there are {names}", is_call=True)
    if not isinstance(arguments, dict):
        return Malformed('"arguments" must be an object', is_call=True)
    if name in tools:
        plain_arguments = _clean(arguments)
        if plain_arguments is None:
            return Malformed('"arguments" nest too deeply, or hold a number that is infinite or none', is_call=True)
        return ToolCall(name, plain_arguments, searches=int(tools[name]))
    call = _read_image_search(arguments) if name == IMAGE_SEARCH else _read_text_search(arguments)
    return call if isinstance(call, Malformed) else replace(call, ignored=_ignored(value, arguments, name))


def _ignored(call: dict[str, Any], arguments: dict[str, Any], tool: str) -> tuple[str, ...]:
    """The first of the fields that a call of a search holds and that nothing is read from."""
    known = (
        {"image_id", "area", *(() if "image_id" in arguments else ("img_id",))} if tool == IMAGE_SEARCH else {"input"}
    )
    names = itertools.chain(
        (name for name in arguments if name not in known), (name for name in call if name not in _CALL_FIELDS)
    )
    return tuple(encodable(name)[:40] for name in itertools.islice(names, MOST_IGNORED))


def _read_image_search(arguments: dict[str, Any]) -> ImageSearch | Malformed:
    image_id = arguments.get("image_id", arguments.get("img_id", "img_0"))
    if not isinstance(image_id, str) or not image_id.strip():
        return Malformed('"image_id" must be a string such as "img_0"', is_call=True)
    area = arguments.get("area")
    area = [] if area is None else area
    if not isinstance(area, list):
        return Malformed('"area" must be a list of boxes: [[x1, y1, x2, y2], ...]', is_call=True)
    boxes = area[:MOST_ENTRIES]
    if not all(isinstance(box, list) or box is None for box in boxes):
        return Malformed('"area" must be a list of boxes: [[x1, y1, x2, y2], ...]', is_call=True)
    image_id = encodable(image_id).strip()
    return ImageSearch(image_id, tuple(_read_box(box) for box in boxes), unread=len(area) - len(boxes))


def _read_text_search(arguments: dict[str, Any]) -> TextSearch | Malformed:
    written = arguments.get("input")
    if isinstance(written, str) and written.lstrip().startswith("["):  # a list that was written as JSON twice
        inner = json_or_none(written)
        written = inner if isinstance(inner, list) and all(isinstance(part, str) for part in inner) else written
    parts = written.split("|") if isinstance(written, str) else written
    if not isinstance(parts, list):
        return Malformed('"input" must be a list of queries: ["...", ...]', is_call=True)
    queries = tuple(encodable(part).strip() for part in parts[:MOST_ENTRIES] if isinstance(part, str) and _shows(part))
    if not queries:
        return Malformed('no valid query was found in "input"', is_call=True)
    read = min(len(parts), MOST_ENTRIES)
    # "a|b|" and [..., " "] are lists of what stands in them; an entry of another kind was meant as something.
    unusable = sum(not isinstance(part, str) for part in parts[:read])
    return TextSearch(queries, len(parts) - read, unusable)


def _shows(text: str) -> bool:
    """Whether a text has a character that can be seen: a letter, a digit, a mark of punctuation, a sign."""
    if text.isascii():
        return any("!" <= char <= "~" for char in text)
    return any(unicodedata.category(char)[0] in "LNPS" and char not in _BLANKS for char in text)


def _read_box(box: list[Any] | None) -> Box | None:
    if box is None or len(box) != 4 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in box):
        return None
    return finite_box(box)


def _has_inside(box: Box | None) -> bool:
    return box is not None and finite_box(box) is not None and box[0] < box[2] and box[1] < box[3]


def _clean(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """JSON values whose strings can all be encoded; None for what JSON does not hold."""
    try:
        clean: dict[str, Any] = parse_json(json.dumps(arguments, allow_nan=False))
    except (ValueError, RecursionError):
        return None
    return clean


def _short(value: Any) -> float | int:
    try:
        number = float(str(value))  # the text of numpy's float32 0.1 is "0.1", its float64 0.10000000149011612
    except ValueError:  # of a fraction
        number = float(value)
    return int(number) if number.is_integer() else number


def _as_json(value: Any) -> Any:
    """An array or a number of numpy as what JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} can't be an argument of a tool call, which is JSON")
