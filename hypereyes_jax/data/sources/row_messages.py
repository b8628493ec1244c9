"""Where a row has its messages: in a column, as a prompt and its reply, or as pairs of what was asked and said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypereyes_jax.data.sources.columns import Layout
from hypereyes_jax.data.sources.fields import (
    is_blank,
    unpacked,
)
from hypereyes_jax.data.sources.message_shapes import looks_like_items
from hypereyes_jax.data.sources.messages import json_in
from hypereyes_jax.data.sources.types import BadRow, Row

_PAIRS = (("instruction", "output"), ("query", "response"), ("prompt", "completion"), ("prompt", "response"))
_SIDES = (("user", "assistant"), ("human", "assistant"))
_SHAPES = {"instruction": "Alpaca", "query": "ms-swift", "prompt": "prompt and reply"}


def messages_of(row: Row, layout: Layout) -> tuple[list[Any], str]:
    """The messages of a row as they stand in it, and what their shape is called. Raises BadRow for a row of none."""
    value = messages_in(layout.get(row, "messages"))
    if value is not None:
        keys = value[0] if value and isinstance(value[0], Mapping) else {}
        if "from" in keys:
            return value, "ShareGPT"
        if any(isinstance(m, Mapping) and m.get("role") in ("tool_call", "tool_response") for m in value):
            return value, "ms-swift"
        return value, "messages"
    for reply, shape in (("response", "veRL"), ("completion", "TRL")):
        said = row.get(reply)
        if isinstance(row.get("prompt"), list) and isinstance(said, str | list):
            said = [{"role": "assistant", "content": said}] if isinstance(said, str) else said
            return [*row["prompt"], *said], shape
    if looks_like_items(row.get("output")) and isinstance(row.get("input"), str | list):
        prompt = [{"role": "user", "content": row["input"]}] if isinstance(row["input"], str) else row["input"]
        return [*prompt, *row["output"]], "Responses"
    for question, reply in _PAIRS:
        if isinstance(row.get(question), str) and isinstance(row.get(reply), str):
            text = "\n".join(part for part in (row[question], row.get("input")) if isinstance(part, str) and part)
            talk: list[Any] = []
            history = unpacked(row.get("history"))
            history = [] if is_blank(history) else history
            if not isinstance(history, list | tuple) or any(
                not isinstance(pair, list | tuple) or len(pair) != 2 for pair in history
            ):
                raise BadRow("no conversation", "'history' must be a list of pairs: what was asked, what was said")
            for instruction, said in history:
                talk += [{"role": "user", "content": instruction}, {"role": "assistant", "content": said}]
            return [
                *talk,
                {"role": "user", "content": text},
                {"role": "assistant", "content": row[reply]},
            ], _SHAPES[question]
    named = next((path for name, value in row.items() for path in _paths_of_messages(name, value)), None)
    cure = f": name the right one by --columns messages={named}" if named else ""
    raise BadRow(
        "no conversation",
        "it has no conversation to learn from ('messages', or 'observations' and 'turns'); its columns are "
        f"{', '.join(map(repr, row))[:300]}{cure}",
    )


def holds_conversation(row: Row, layout: Layout) -> bool:
    """Whether a row has messages, or the items of OpenAI's Responses, which end with a reply."""
    if messages_in(layout.get(row, "messages")) is not None:
        return True
    return looks_like_items(row.get("output")) and isinstance(row.get("input"), str | list)


def messages_in(value: Any) -> list[Any] | None:
    """The messages that a column holds: a list, one in JSON in a text, or a list for each of their fields, as
    `datasets` saves a `Sequence` of objects; None for anything else. Raises BadRow for a text that is not JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = json_in(value, "its conversation")
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        columns = [part for part in value.values() if isinstance(part, list)]
        if len(columns) == len(value) and len({len(column) for column in columns}) == 1:
            return [dict(zip(value, parts, strict=True)) for parts in zip(*columns, strict=True)]
    if isinstance(value, list) and value and all(isinstance(part, Mapping) and _sides(part) for part in value):
        return [
            {"role": role, "content": part[name]}
            for part in value
            for role, name in zip(("user", "assistant"), _sides(part), strict=True)
        ]
    return value if isinstance(value, list) else None


def _sides(part: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which an exchange holds what was asked and what was said, as The Cauldron has them; () in
    another object."""
    return next((names for names in _SIDES if all(isinstance(part.get(name), str) for name in names)), ())


def _paths_of_messages(name: str, value: Any) -> list[str]:
    """A column that seems to hold messages, or the parts of it that do."""
    if looks_like_messages(value):
        return [name]
    parts = value.items() if isinstance(value, Mapping) else ()
    return [f"{name}.{part}" for part, inner in parts if looks_like_messages(inner)]


def looks_like_messages(value: Any) -> bool:
    """Whether it is a list of objects that say whose they are."""
    parts = value if isinstance(value, list) else [None]
    return bool(parts) and all(isinstance(part, Mapping) and ("role" in part or "from" in part) for part in parts)
