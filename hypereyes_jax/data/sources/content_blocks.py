"""Messages whose calls, results and thoughts are parts of their content (Anthropic's, LangChain's), in the form of
OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_THOUGHTS = ("thinking", "reasoning")  # types of parts that hold their text under this name
_BLOCKS = frozenset(("tool_use", "tool_call", "tool_result", *_THOUGHTS))


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
        if kind in ("tool_use", "tool_call"):
            calls.append({"name": part.get("name"), "arguments": part.get("args", part.get("input"))})
        elif kind in _THOUGHTS:
            if isinstance(part.get(kind), str) and part[kind].strip():
                parts.append({"type": "text", "text": f"<think>{part[kind].strip()}</think>\n"})
        elif kind == "tool_result":
            is_result = True
            inner = part.get("content")
            parts += inner if isinstance(inner, list) else [] if inner is None else [{"type": "text", "text": inner}]
            parts.append({"type": "text", "text": "\n"})
        else:
            parts.append(part)
    calls = [] if message.get("tool_calls") else calls  # which LangChain writes in both places
    other = {"content": parts} | ({"tool_calls": calls} if calls else {}) | ({"role": "tool"} if is_result else {})
    return {**message, **other}


def _kind(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return kind if isinstance(kind, str) else None
