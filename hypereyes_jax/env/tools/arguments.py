"""Whether a call's arguments are those that a tool's schema describes, as far as people's schemas go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "array": (list, tuple),
    "object": Mapping,
    "null": type(None),
}


def argument_fault(parameters: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """What is wrong with the arguments, in words for the model; "" if nothing is."""
    for name in parameters.get("required", ()):
        if name not in arguments:
            return f'the argument "{name}" is missing'
    properties = parameters.get("properties", {})
    for name, value in arguments.items():
        if name in properties and (wanted := _mismatch(properties[name], value)):
            return f'the argument "{name}" must be {wanted}, not {json.dumps(value, ensure_ascii=False):.80}'
    return ""


def _mismatch(schema: Mapping[str, Any], value: Any) -> str:
    """What a schema wants instead of a value; "" if the value fits."""
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return f"one of {json.dumps(schema['enum'], ensure_ascii=False):.200}"
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    if kinds and not any(_is(value, kind) for kind in kinds):
        return " or ".join(f"of type {kind}" for kind in kinds)
    items = schema.get("items")
    if isinstance(value, list) and isinstance(items, Mapping):
        wrong = next((wanted for part in value if (wanted := _mismatch(items, part))), "")
        return f"an array whose items are {wrong}" if wrong else ""
    return ""


def _is(value: Any, kind: Any) -> bool:
    if kind not in _TYPES:
        return True  # a word of a newer draft, or none
    if isinstance(value, bool):
        return kind == "boolean"
    whole = kind == "integer" and isinstance(value, float) and value.is_integer()
    return whole or isinstance(value, _TYPES[kind])
