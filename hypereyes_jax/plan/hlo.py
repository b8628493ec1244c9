"""The text of a compiled program: its computations, their instructions, and how often its loops run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hypereyes_jax.models.trip_counts import read_trip_count

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_ASSIGNED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_KNOWN_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_COMPARED = re.compile(r" compare\((.*)\), direction=[LG]T")
_CONSTANT = re.compile(r"%([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
_NAME = re.compile(r'op_name="([^"]*)"')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRUE_OR_FALSE = re.compile(r"(?:true|false)_computation=%?([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")


@dataclass(frozen=True)
class Module:
    """A program's computations by name, each as the lines of its instructions."""

    computations: Mapping[str, list[str]]
    entry: str


@dataclass(frozen=True)
class Loop:
    """A `while` instruction."""

    body: str
    condition: str
    trip_count: float
    known: bool  # the compiler knows the trip count; otherwise it is what `models.trip_counts` expects, or 1


def parse(hlo: str) -> Module:
    """The module that `compiled.as_text()` describes."""
    computations: dict[str, list[str]] = {}
    entry = current = ""
    for line in hlo.splitlines():
        if not line.startswith(" ") and (head := _HEAD.match(line)):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current:
            computations[current].append(line)
    return Module(computations, entry)


def opcode(line: str) -> str | None:
    """The opcode of an instruction, like "fusion" or "all-gather-start"; None for a line that is none."""
    assigned = _ASSIGNED.match(line)
    if assigned is None:
        return None
    begin = assigned.end()
    # The result's shape stands first. That of a tuple holds spaces and parentheses of its own.
    place = _closing(line, begin) + 1 if line.startswith("(", begin) else line.find(" ", begin)
    match = _OPCODE.match(line, place) if place >= 0 else None
    return match[1] if match else None


def _closing(line: str, begin: int) -> int:
    """Where the parenthesis that opens at `begin` closes; -2 if it does not."""
    depth = 0
    for place in range(begin, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if depth == 0:
            return place
    return -2


def loop(line: str, module: Module) -> Loop:
    """The loop of a `while` instruction. GPU programs state the trip count; in TPU programs the condition compares
    the counter with a constant."""
    condition, body = _CONDITION.search(line), _BODY.search(line)
    if condition is None or body is None:
        raise ValueError(f"not a while loop: {line.strip()[:200]}")
    if match := _KNOWN_TRIP_COUNT.search(line):
        return Loop(body[1], condition[1], float(match[1]), known=True)
    instructions = module.computations.get(condition[1], [])
    root = next((_COMPARED.search(each) for each in instructions if "ROOT" in each), None)
    for each in instructions if root else ():
        constant = _CONSTANT.search(each)
        if constant and root and f"%{constant[1]}" in re.split(r"[ ,]", root[1]):
            return Loop(body[1], condition[1], float(constant[2]), known=False)
    name = _NAME.search(line)
    return Loop(body[1], condition[1], (read_trip_count(name[1]) if name else None) or 1.0, known=False)


def branches(line: str) -> list[str]:
    """The computations of a `conditional` instruction, of which one runs."""
    if match := _BRANCHES.search(line):
        return [branch.strip().lstrip("%") for branch in match[1].split(",")]
    return _TRUE_OR_FALSE.findall(line)


def called(line: str) -> list[str]:
    """The computations that a fusion, a call, a reduction or an asynchronous start names."""
    return _CALLED.findall(line)
