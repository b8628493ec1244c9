"""What a compiled program sends between devices, read from its HLO text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_COLLECTIVE = re.compile(
    r"= (?P<result>\(?.*?\)?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


def collective_bytes(hlo: str, mesh_shape: Mapping[str, int], loop_trips: int = 1) -> dict[str, dict[str, float]]:
    """Bytes that one device sends in one run of the program: {mesh axes: {kind of collective: bytes}}.

    A loop's collectives count once a trip; `loop_trips` stands for loops whose count is an argument. Sizes follow ring
    algorithms: with g devices an all-gather sends (g - 1) / g of its result, an all-reduce twice that of its operand.

    Args:
      mesh_shape: axis name -> size, in the order of the mesh: devices in the HLO are numbered along it.
    """
    computations, entry = _computations(hlo)
    sent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def walk(name: str, times: float) -> None:
        for line in computations.get(name, ()):
            if found := _COLLECTIVE.search(line):
                group = _group(line)
                if len(group) > 1:
                    axes = _axes(group, mesh_shape)
                    sent[axes][found["kind"]] += times * _sent(found["kind"], found["result"], len(group))
            trips = 1.0
            if " while(" in line:
                known = _TRIPS.search(line)
                trips = float(known[1]) if known else float(loop_trips)
            called = _CALLED.findall(line)
            if branches := _BRANCHES.search(line):
                called += [branch.strip().lstrip("%") for branch in branches[1].split(",")]
            for other in called:
                walk(other, times * trips)

    walk(entry, 1.0)
    return {axes: dict(kinds) for axes, kinds in sent.items()}


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    found: dict[str, list[str]] = {}
    entry = current = ""
    for line in hlo.splitlines():
        if not line.startswith(" ") and (head := _HEAD.match(line)):
            current = head[2]
            found[current] = []
            entry = current if head[1] else entry
        elif current:
            found[current].append(line)
    return found, entry


def _sizes(result: str) -> list[int]:
    return [
        _BYTES[kind] * int(np.prod([int(n) for n in shape.split(",") if n]))
        for kind, shape in _SHAPE.findall(result)
        if kind in _BYTES
    ]


def _sent(kind: str, result: str, group: int) -> float:
    sizes = _sizes(result)
    # An asynchronous start returns (operands, results): of an all-gather the result is the largest.
    size = max(sizes) if kind == "all-gather" and result.startswith("(") else sum(sizes)
    share = (group - 1) / group
    match kind:
        case "all-reduce":
            return 2 * size * share
        case "reduce-scatter":
            return size * (group - 1)  # the operand is `group` times the result
        case "collective-permute":
            return float(size)
    return size * share


def _group(line: str) -> list[int]:
    """The first group of devices that exchange data."""
    if iota := _IOTA.search(line):
        groups, size = int(iota[1]), int(iota[2])
        ids = np.arange(groups * size).reshape([int(n) for n in iota[3].split(",")])
        if iota[4]:
            ids = ids.transpose([int(n) for n in iota[4].split(",")])
        return [int(n) for n in ids.reshape(groups, size)[0]]
    if listed := _LISTED.search(line):
        return [int(n) for n in listed[1].split(",")]
    if pairs := _PAIRS.search(line):
        return [int(pairs[1]), int(pairs[2])]
    return []


def _axes(group: list[int], mesh_shape: Mapping[str, int]) -> str:
    """The mesh axes along which a group's devices differ, like "fsdp" or "fsdp+expert"."""
    places = np.array(np.unravel_index(group, tuple(mesh_shape.values())))
    differ = (places != places[:, :1]).any(axis=1)
    return "+".join(name for name, d in zip(mesh_shape, differ, strict=True) if d)
