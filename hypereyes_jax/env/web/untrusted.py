"""JSON and text that somebody else wrote: a model, a search service, a client of a server.

JSON can escape half of a surrogate pair ("\\ud83d", what a snippet cut inside an emoji ends with). Python reads it, but
nothing that comes later takes it: no tokenizer, HTTP body, database or file.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from typing import Any

_TRIED_OBJECTS = 256  # opening braces of a reply that may begin an object
_JSON = json.JSONDecoder()
# Tags that models think in, beside the method's own <reason>.
THOUGHT_TAGS = (
    "think", "thinking", "reasoning", "thought", "thoughts", "seed:think", "scratchpad", "analysis", "reflection",
    "inner_monologue", "inner_thoughts", "rationale", "cot", "plan",
)  # fmt: skip
_THOUGHTS = "|".join(THOUGHT_TAGS)
_THOUGHT = re.compile(
    rf"<(?:{_THOUGHTS})(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|channel\|>analysis|<\|START_THINKING\|>|<\|begin_of_thought\|>",
    re.IGNORECASE,
)
_THOUGHT_END = re.compile(
    rf"</ ?(?:{_THOUGHTS})\s*>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>|<\|END_THINKING\|>"
    r"|<\|end_of_thought\|>",
    re.IGNORECASE,
)
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def encodable(text: str) -> str:
    """The text with a "?" for each half of a surrogate pair that stands alone."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str, limit: int) -> str:
    """Untrusted text for a message or a terminal: one line of at most `limit` characters, without control characters.

    An escape sequence would steer the terminal it is printed to; formats such as right-to-left marks would mislead the
    reader.
    """
    text = text[: 4 * limit]  # bounded before the work: a reply may be megabytes
    hidden = "\N{REPLACEMENT CHARACTER}"
    visible_text = "".join(char if char.isspace() or unicodedata.category(char)[0] != "C" else hidden for char in text)
    line = " ".join(visible_text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


class RepeatedKey(ValueError):
    """A key that an object in JSON has twice, of which Python takes the last one without a word."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values, for `object_pairs_hook`. Raises RepeatedKey."""
    value = dict(pairs)
    if len(value) != len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise RepeatedKey(f"it has the key {twice[:60]!r} twice in one object, of which only one can be meant")
    return value


def parse_json(raw: bytes | str, unique: bool = False) -> Any:
    """A JSON text whose strings can all be encoded, see `encodable`.

    Args:
      unique: refuse an object that has a key twice.

    Raises ValueError for what is not JSON, or nests deeper than Python reads.
    """
    text = raw if isinstance(raw, str) else raw.decode(json.detect_encoding(raw), "replace")
    try:
        value = json.loads(text, object_pairs_hook=unique_keys if unique else None)
        return json.loads(encodable(json.dumps(value, ensure_ascii=False))) if _HALF.search(text) else value
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def json_or_none(raw: bytes | str) -> Any:
    """What `parse_json` gives, or None for what is not JSON."""
    try:
        return parse_json(raw)
    except ValueError:
        return None


def without_thinking(text: str) -> str:
    """What a model's reply says after its reasoning; nothing where it was cut off while it was thinking.

    Servers that do not keep reasoning apart send it with the marks of the model: <think>, [THINK], ◁think▷, channels.
    """
    answer = _THOUGHT_END.split(text)[-1]
    return "" if _THOUGHT.search(answer) else answer


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object in a model's reply, behind its reasoning; None without one.

    It may stand in a code block or among words; which of several is meant, nobody can tell.
    """
    text = without_thinking(text)
    start, end = text.find("{"), text.rfind("}")
    value = json_or_none(text[start : end + 1]) if 0 <= start < end else None
    if isinstance(value, dict):
        return value
    objects = json_objects(text)
    return objects[0] if len(objects) == 1 else None


def json_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that stand in a text, one after the other; those within one another are one."""
    objects, start = [], text.find("{")
    for _ in range(_TRIED_OBJECTS):
        if start < 0:
            break
        try:
            value, end = _JSON.raw_decode(text, start)
            objects.append(json_or_none(json.dumps(value)))  # from its text, whose strings can then all be encoded
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    return objects
