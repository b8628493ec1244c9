"""What a compiled program sends between devices, read from its HLO text."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from hypereyes_jax.plan.hlo import branches, called, loop, parse

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
_OWN_BYTES = 4  # of an asynchronous start's bookkeeping values
_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (?P<result>\(?.*?\)?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_ALL = "replica_groups={}"
# mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}: a mesh of XLA's own, how devices are numbered along it, and the
# axes that a group runs along. An axis may be cut into a part: 'a':(2)4 are the four places behind the first factor 2.
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_MESH_AXIS = re.compile(r"'([^']*)'=(\d+)")
_GROUP_AXIS = re.compile(r"'([^']*)'(?::\((\d+)\)(\d+))?")
_NUMBERED = re.compile(r"^\[([\d,]+)\](?:T\(([\d,]+)\)?)?$")


def collective_bytes(hlo: str, mesh_shape: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Bytes that one device sends in one run of the program: {mesh axes: {kind of collective: bytes}}.

    A loop's collectives count once a trip; where the count is known on the device only, as often as
    `models.trip_counts` expects. Sizes follow ring algorithms: with g devices an all-gather sends (g - 1) / g of its
    result, an all-reduce twice that of its operand.

    Args:
      mesh_shape: axis name -> size, in the order of the mesh: devices in the HLO are numbered along it.
    """
    module = parse(hlo)
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def walk(name: str, times: float) -> None:
        for line in module.computations.get(name, ()):
            if collective := _COLLECTIVE.search(line):
                group = _group(line, math.prod(mesh_shape.values()))
                if len(group) > 1:
                    axes = _axes(group, mesh_shape)
                    sums[axes][collective["kind"]] += times * _sent(
                        collective["kind"], collective["result"], len(group), bool(collective["start"])
                    )
            for other in called(line) + branches(line):
                walk(other, times)
            if " while(" in line:
                repeated = loop(line, module)
                walk(repeated.condition, times * repeated.trip_count)
                walk(repeated.body, times * repeated.trip_count)

    walk(module.entry, 1.0)
    return {axes: dict(kinds) for axes, kinds in sums.items()}


def _sizes(result: str) -> list[int]:
    return [
        _BYTES[kind] * int(np.prod([int(n) for n in shape.split(",") if n]))
        for kind, shape in _SHAPE.findall(result)
        if kind in _BYTES
    ]


def _sent(kind: str, result: str, group: int, starts: bool) -> float:
    sizes = _sizes(result)
    if starts and kind != "all-reduce":
        # An asynchronous start returns (operands, results), and small numbers of its own.
        sizes = [size for size in sizes if size > _OWN_BYTES] or sizes
        sizes = sizes[len(sizes) // 2 :]
    size = sum(sizes)
    share = (group - 1) / group
    match kind:
        case "all-reduce":
            return 2 * size * share
        case "reduce-scatter":
            return size * (group - 1)  # the operand is `group` times the result
        case "collective-permute":
            return float(size)
    return size * share


def _group(line: str, devices: int) -> list[int]:
    """The first group of devices that exchange data. Raises ValueError for groups written in a way unknown here, which
    would count as nothing sent."""
    if mesh := _MESH.search(line):
        return _group_of_mesh(*mesh.groups())
    if iota := _IOTA.search(line):
        groups, size = int(iota[1]), int(iota[2])
        ids = np.arange(groups * size).reshape([int(n) for n in iota[3].split(",")])
        if iota[4]:
            ids = ids.transpose([int(n) for n in iota[4].split(",")])
        return [int(n) for n in ids.reshape(groups, size)[0]]
    if match := _LISTED.search(line):
        return [int(n) for n in match[1].split(",")]
    if pairs := _PAIRS.search(line):
        both = [[int(n) for n in pair.split(",")] for pair in re.findall(r"\d+,\d+", pairs[1])]
        return next((pair for pair in both if pair[0] != pair[1]), [])  # a device may send to itself
    if _ALL in line:
        return list(range(devices))
    raise ValueError(f"which devices exchange data is not known of this collective: {line.strip()[:300]}")


def _group_of_mesh(axes: str, numbered: str | None, along: str) -> list[int]:
    """The first group of a collective along some axes of a mesh."""
    sizes = {name: int(size) for name, size in _MESH_AXIS.findall(axes)}
    ids = _numbered(numbered, math.prod(sizes.values())).reshape(tuple(sizes.values()))
    parts = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in _GROUP_AXIS.findall(along)}
    shape: list[int] = []
    inside: list[int] = []  # the dimensions of `shape` that a group runs along
    for name, size in sizes.items():
        if name not in parts:
            shape.append(size)
            continue
        before, own = parts[name]
        inside.append(len(shape) + 1)
        shape += [before, own, size // (before * own)]
    ids = np.moveaxis(ids.reshape(shape), inside, range(len(inside)))
    return [int(n) for n in ids.reshape(math.prod(own for _, own in parts.values()), -1)[:, 0]]


def _numbered(text: str | None, devices: int) -> np.ndarray:
    """int [devices]: the device at each place of a mesh, in order; `text` as XLA prints it, None for 0, 1, 2, ..."""
    if text is None:
        return np.arange(devices)
    if iota := _NUMBERED.match(text):
        ids = np.arange(devices).reshape([int(n) for n in iota[1].split(",")])
        return (ids.transpose([int(n) for n in iota[2].split(",")]) if iota[2] else ids).reshape(-1)
    return np.array([int(n) for n in text.split(",")])


def _axes(group: list[int], mesh_shape: Mapping[str, int]) -> str:
    """The mesh axes along which a group's devices differ, like "fsdp" or "fsdp+expert"."""
    places = np.array(np.unravel_index(group, tuple(mesh_shape.values())))
    differ = (places != places[:, :1]).any(axis=1)
    return "+".join(name for name, d in zip(mesh_shape, differ, strict=True) if d)
