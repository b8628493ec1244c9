"""Turns whose calls stand in the text without our tags: ReAct's Action and Action Input, and bare JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.data.sources.turn_checks import REASONS, calls_something
from hypereyes_jax.env.web.untrusted import json_or_none

_LONGEST = 65_536  # characters of a turn that are matched with labels
_LABEL = r"[ \t]*{}[ \t]*\d*[ \t]*:"
_REACT = re.compile(
    r"(?P<thought>.*?)^" + _LABEL.format("Action") + r"[ \t]*(?P<name>[\w.-]+)[ \t]*"
    r"(?:\[(?P<bracket>[^\n]*)\]|\s+Action Input[ \t]*\d*[ \t]*:(?P<input>.*?))"
    r"\s*(?:^[ \t]*Observation[ \t]*\d*[ \t]*:?)?\s*",
    re.DOTALL | re.MULTILINE,
)
_FINAL = re.compile(r"(?P<thought>.*?)^" + _LABEL.format("Final Answer") + r"(?P<answer>.+)", re.DOTALL | re.MULTILINE)
_LABELS = re.compile(r"^[ \t]*(?:Action|Action Input|Observation|Final Answer)[ \t]*\d*[ \t]*:", re.MULTILINE)
_THOUGHT = re.compile(r"\s*" + _LABEL.format("Thought"))
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)
_BEHIND_REASON = re.compile(rf".*</(?:{'|'.join(REASONS)})>", re.DOTALL)


@dataclass(frozen=True)
class Notation:
    """A turn in another notation, read.

    text: the turn without its calls, its reason in <reason>, its answer in <answer>.
    calls: as JSON values {"name": ..., "arguments": ...}; arguments that were no object are {"": value}.
    """

    name: str  # of the notation
    text: str
    calls: tuple[Any, ...]


def read_notation(text: str) -> Notation | None:
    """A turn in one of these notations; None for any other."""
    return _react(text.strip()) or _bare_json(text.strip())


def holds_call(text: str) -> bool:
    """Whether a turn of the model calls a tool, in any notation that is known, if not read."""
    return calls_something(text) or bool((notation := read_notation(text)) and notation.calls)


def _react(text: str) -> Notation | None:
    if len(text) > _LONGEST or not ("Action" in text or "Final Answer" in text):
        return None
    match = _REACT.fullmatch(text) or _FINAL.fullmatch(text)
    if match is None or _LABELS.search(match["thought"]):
        return None
    parts = match.groupdict()
    thinking = _THOUGHT.sub("", parts["thought"]).strip()
    reason = thinking if not thinking or "</" in thinking else f"<reason>{thinking}</reason>"
    said = next(parts[name] for name in ("answer", "input", "bracket") if parts.get(name) is not None).strip()
    if _LABELS.search(said):
        return None
    fence = _FENCE.fullmatch(said)
    value = json_or_none(fence[1] if fence else said)
    if "answer" in parts or parts["name"].lower() == "finish":
        if isinstance(value, Mapping):  # of ToolBench, beside how the episode ended
            answers = [value[name] for name in ("final_answer", "answer") if isinstance(value.get(name), str)]
            said = answers[0].strip() if answers else "" if "return_type" in value else said
        return Notation("ReAct", f"{reason}\n<answer>{said}</answer>".strip(), ())
    arguments = value if isinstance(value, Mapping) else {"": said if value is None else value}
    return Notation("ReAct", reason, ({"name": parts["name"], "arguments": arguments},))


def _bare_json(text: str) -> Notation | None:
    behind = _BEHIND_REASON.match(text)
    head = behind[0] if behind else ""
    rest = text[len(head) :].strip()
    fence = _FENCE.fullmatch(rest)
    rest = fence[1].strip() if fence else rest
    if rest[:1] not in ("{", "["):
        return None
    value = json_or_none(rest)
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(
        isinstance(call, Mapping)
        and isinstance(call.get("name"), str)
        and isinstance(call.get("arguments", call.get("parameters")), Mapping)
        for call in calls
    ):
        return None
    return Notation("a call in bare JSON", head, tuple(calls))
