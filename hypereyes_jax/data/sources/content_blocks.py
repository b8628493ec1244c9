"""Messages whose calls, results and thoughts are parts of their content (Anthropic's), in the form of OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BLOCKS = frozenset(("tool_use", "tool_result", "thinking"))


def without_blocks(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with `tool_calls`, the role tool and a <think> in place of such parts; any other one as it is."""
    content = message.get("content")
    if not isinstance(content, list) or not any(_kind(part) in _BLOCKS for part in content):
        return message
    parts: list[Any] = []
    calls: list[Any] = []
    is_result = False
    for part in content:
        kind = _kind(part)
        if kind == "tool_use":
            calls.append({"name": part.get("name"), "arguments": part.get("input")})
        elif kind == "thinking":
            if isinstance(part.get("thinking"), str) and part["thinking"].strip():
                parts.append({"type": "text", "text": f"<think>{part['thinking'].strip()}</think>\n"})
        elif kind == "tool_result":
            is_result = True
            inner = part.get("content")
            parts += inner if isinstance(inner, list) else [] if inner is None else [{"type": "text", "text": inner}]
            parts.append({"type": "text", "text": "\n"})
        else:
            parts.append(part)
    other = {"content": parts} | ({"tool_calls": calls} if calls else {}) | ({"role": "tool"} if is_result else {})
    return {**message, **other}


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None
