"""How the authors' published reward code counts tool use, its quirks included."""

from __future__ import annotations

from typing import Any

from hypereyes_jax.env.web.untrusted import json_or_none

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def published_counts(turn: str) -> tuple[int, int]:
    """(tool calls, searches) of one turn by the authors' published reward code, in time linear in the text.

    Closed blocks only, whatever is in them; boxes are ignored; a list of queries counts one; only "|" separates.
    """
    calls = searches = position = 0
    while True:
        start = turn.find(_OPEN, position)
        end = turn.find(_CLOSE, start + len(_OPEN)) if start >= 0 else -1
        if end < 0:
            return calls, searches
        calls += 1
        searches += _searches(json_or_none(turn[start + len(_OPEN) : end]))
        position = end + len(_CLOSE)


def _searches(call: Any) -> int:
    if not isinstance(call, dict):
        return 0
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        arguments = json_or_none(arguments)
    if not isinstance(arguments, dict):
        return 0
    if call.get("name") == "text_search":
        field = arguments.get("input")
    elif call.get("name") == "image_search":
        field = arguments.get("image_id") or arguments.get("img_id")
    else:
        return 0
    return sum(bool(part.strip()) for part in str(field or "").split("|"))
