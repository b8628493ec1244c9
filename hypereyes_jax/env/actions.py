"""What the model wrote, read once: environment, reward and metrics all use the action parsed here.

A turn is `<reason>...</reason>` followed by `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (one or
several) or `<answer>...</answer>`. Unified grounded search: one image_search carries many boxes, one text_search many
queries. The text comes from a model and is never trusted: any string parses; what is wrong with it is data, not an
exception.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.env.types import Box
from hypereyes_jax.env.web.untrusted import encodable, parse_json

IMAGE_SEARCH = "image_search"
TEXT_SEARCH = "text_search"

_OPENING = re.compile(r"<(reason|tool_call|answer)>")
_SPECIAL = re.compile(r"<\|(?:im_end|im_start|endoftext)\|>")
_REASON_END = re.compile(r"</reason>|<tool_call>|<answer>")
_CALL_END = re.compile(r"</tool_call>|<tool_call>|<answer>")
_JSON = json.JSONDecoder()


@dataclass(frozen=True)
class ImageSearch:
    """Search whole images (no boxes) or regions of them. A box is as written, in the episode's units."""

    image_id: str  # "img_0", or several joined by "|"
    boxes: tuple[Box | None, ...] = ()  # None = an entry that was not four finite numbers

    @property
    def image_ids(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.image_id.split("|") if part.strip()) or (self.image_id,)

    @property
    def invocations(self) -> int:
        return len(self.image_ids) * max(1, len(self.boxes))


@dataclass(frozen=True)
class TextSearch:
    queries: tuple[str, ...]

    @property
    def invocations(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class Answer:
    text: str
    closed: bool = True  # an unclosed answer ends the episode but is a format failure


@dataclass(frozen=True)
class Malformed:
    """Nothing usable. `is_call`: it was at least meant as a tool call, and counts as a round."""

    why: str
    is_call: bool = False
    broken_json: bool = False

    @property
    def invocations(self) -> int:
        return 0


Call = ImageSearch | TextSearch | Malformed


@dataclass(frozen=True)
class ParsedTurn:
    """One turn of the model.

    `action` is what the turn does: its first non-empty answer, else its first usable call, else what was wrong. `calls`
    holds every call of the turn in order, the malformed ones too; an environment may run them all together.
    `invocations` is the number of atomic searches asked for (the turn's share of t_s); 0 in a turn that answers.
    """

    reason: str
    action: ImageSearch | TextSearch | Answer | Malformed
    calls: tuple[Call, ...]
    invocations: int

    @property
    def is_round(self) -> bool:
        """Whether the turn counts in t_c: it calls a tool and does not answer."""
        return bool(self.calls) and not isinstance(self.action, Answer)


def parse_turn(text: str, *, published_counting: bool = False) -> ParsedTurn:
    """Reads one assistant turn. Never raises.

    Args:
      text: what the model wrote, with or without its stop token. An unclosed last tag runs to the end of the text.
      published_counting: count `invocations` as the authors' published reward does (closed blocks only; boxes
        ignored; a list of queries counts one; only "|" separates), instead of counting the searches themselves.
    """
    clean = _SPECIAL.sub("", text)
    reason, answer, calls = "", None, []
    position = 0
    while match := _OPENING.search(clean, position):
        start = match.end()
        if match.group(1) == "reason":
            end = _REASON_END.search(clean, start)
            body, position = _until(clean, start, end, "</reason>")
            reason = reason or body
        elif match.group(1) == "answer":
            end_at = clean.find("</answer>", start)
            body = clean[start : end_at if end_at >= 0 else None].strip()
            position = end_at + len("</answer>") if end_at >= 0 else len(clean)
            if body and answer is None:
                answer = Answer(body, closed=end_at >= 0)
        else:
            call, position = _read_call(clean, start)
            calls.append(call)

    if not reason and not _OPENING.search(clean):
        reason = clean.strip()
    usable = next((call for call in calls if not isinstance(call, Malformed)), None)
    action = answer or usable or (calls[0] if calls else Malformed("neither a tool call nor an answer was found"))
    if published_counting:
        count = published_counts(text)[1]
    else:
        count = 0 if answer else sum(call.invocations for call in calls)
    return ParsedTurn(reason=reason, action=action, calls=tuple(calls), invocations=count)


def tool_call(action: ImageSearch | TextSearch) -> str:
    """Writes an action as the tag the parser reads, compactly: `parse_turn(tool_call(a)).action == a`."""
    arguments: dict[str, Any]
    if isinstance(action, ImageSearch):
        name, arguments = IMAGE_SEARCH, {"image_id": action.image_id}
        if action.boxes:
            arguments["area"] = [None if box is None else [_short(value) for value in box] for box in action.boxes]
    else:
        name, arguments = TEXT_SEARCH, {"input": list(action.queries)}
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>{body}</tool_call>"


@dataclass(frozen=True)
class CompletionCounts:
    """Tool use over a whole conversation text."""

    tool_calls: int  # t_c
    searches: int  # t_s
    max_parallel: int
    per_turn: tuple[tuple[int, int], ...]  # (calls, searches) of each turn that called a tool
    final_answer: str  # closed answer of the last assistant turn, "" if none


def count_completion(completion: str, *, published_counting: bool = False) -> CompletionCounts:
    """Counts over `completion`, a chat text whose assistant turns are set apart by <|im_start|> and <|im_end|> marks.

    By default a turn that calls tools is one round however many calls it holds, and each box or query is one search;
    with `published_counting` the result is that of the authors' published reward code, its quirks included.
    """
    turns = [part.split("<|im_end|>", 1)[0] for part in re.split(r"<\|im_start\|>assistant\n?", completion)]
    rows, final = [], ""
    for turn in turns:
        if published_counting:
            calls, searches = published_counts(turn)
        else:
            parsed = parse_turn(turn)
            calls, searches = int(parsed.is_round), parsed.invocations
        if calls:
            rows.append((calls, searches))
        closed = re.search(r"<answer>(.*?)</answer>", turn, re.DOTALL)
        final = closed.group(1).strip() if closed else ""
    return CompletionCounts(
        tool_calls=sum(calls for calls, _ in rows),
        searches=sum(searches for _, searches in rows),
        max_parallel=max((searches for _, searches in rows), default=0),
        per_turn=tuple(rows),
        final_answer=final,
    )


def published_counts(turn: str) -> tuple[int, int]:
    """(tool calls, searches) of one turn by the authors' published reward code: see `count_completion`."""
    calls = searches = 0
    for block in re.findall(r"<tool_call>(.*?)</tool_call>", turn, re.DOTALL):
        calls += 1
        parsed = _loads(block)
        if not isinstance(parsed, dict):
            continue
        arguments = parsed.get("arguments")
        if isinstance(arguments, str):
            arguments = _loads(arguments)
        if not isinstance(arguments, dict):
            continue
        if parsed.get("name") == TEXT_SEARCH:
            field = arguments.get("input")
        elif parsed.get("name") == IMAGE_SEARCH:
            field = arguments.get("image_id") or arguments.get("img_id")
        else:
            continue
        searches += sum(bool(part.strip()) for part in str(field or "").split("|"))
    return calls, searches


def _until(text: str, start: int, end: re.Match[str] | None, closing: str) -> tuple[str, int]:
    if end is None:
        return text[start:].strip(), len(text)
    return text[start : end.start()].strip(), end.end() if end.group() == closing else end.start()


def _read_call(text: str, start: int) -> tuple[Call, int]:
    """Reads the call whose tag opened before `start`. The JSON says where it ends: a query may hold any tag."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        value, end = _JSON.raw_decode(text, start)
    except (ValueError, RecursionError):
        closing = _CALL_END.search(text, start)
        _, position = _until(text, start, closing, "</tool_call>")
        return Malformed("the tool call is not valid JSON", is_call=True, broken_json=True), position
    closing = _CALL_END.search(text, end)
    _, position = _until(text, end, closing, "</tool_call>")
    return read_call(value), position


def read_call(value: Any) -> Call:
    """The JSON value of a tool call, {"name": ..., "arguments": {...}}, as an action; never raises."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return Malformed('the tool call needs the fields "name" and "arguments"', is_call=True)
    name, arguments = value["name"], value.get("arguments")
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    if name not in (IMAGE_SEARCH, TEXT_SEARCH):
        return Malformed(
            f"unknown tool {encodable(name)[:40]!r}; there are {IMAGE_SEARCH} and {TEXT_SEARCH}", is_call=True
        )
    if not isinstance(arguments, dict):
        return Malformed('"arguments" must be an object', is_call=True)
    return _read_image_search(arguments) if name == IMAGE_SEARCH else _read_text_search(arguments)


def _read_image_search(arguments: dict[str, Any]) -> Call:
    image_id = arguments.get("image_id", arguments.get("img_id", "img_0"))
    if not isinstance(image_id, str) or not image_id.strip():
        return Malformed('"image_id" must be a string such as "img_0"', is_call=True)
    area = arguments.get("area") or []
    if not isinstance(area, list) or not all(isinstance(box, list) or box is None for box in area):
        return Malformed('"area" must be a list of boxes: [[x1, y1, x2, y2], ...]', is_call=True)
    return ImageSearch(encodable(image_id).strip(), tuple(_read_box(box) for box in area))


def _read_text_search(arguments: dict[str, Any]) -> Call:
    field = arguments.get("input")
    parts = field.split("|") if isinstance(field, str) else field
    if not isinstance(parts, list):
        return Malformed('"input" must be a list of queries: ["...", ...]', is_call=True)
    queries = tuple(encodable(part).strip() for part in parts if isinstance(part, str) and part.strip())
    return TextSearch(queries) if queries else Malformed('no valid query was found in "input"', is_call=True)


def _read_box(box: list[Any] | None) -> Box | None:
    if box is None or len(box) != 4 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in box):
        return None
    try:
        x1, y1, x2, y2 = (float(v) for v in box)
    except OverflowError:  # an integer beyond float64
        return None
    return (x1, y1, x2, y2) if all(math.isfinite(v) for v in (x1, y1, x2, y2)) else None


def _loads(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return None


def _short(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
