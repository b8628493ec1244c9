"""What a traced program computes and reads: FLOPs of matmuls and memory traffic, loops counted as often as they run.

The compiler's own count takes a loop's body once. Here the traced program (a jaxpr) is walked instead: it is the same
for every platform, holds what rematerialisation computes again, and names the length of each scan. Loops whose length
is known on the device only say what they expect (`models.trip_counts`). Blocks that stay in a cache, like attention's
scores, count as traffic only with what is read from memory to make them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from typing import Any

from hypereyes_jax.models.trip_counts import ON_CHIP, read_bytes, read_trip_count


@dataclass(frozen=True)
class ProgramCost:
    """The cost of a whole program over all devices, or of one device: see `device_cost`."""

    flops: float = 0.0  # of matmuls: 2 a multiply-add
    float8_flops: float = 0.0  # those of them whose factors are both in 8-bit floating point
    int8_flops: float = 0.0  # those of them whose factors are both in int8
    traffic: float = 0.0  # bytes, if each matmul, gather and scatter reads its operands and writes its result once

    def __add__(self, other: ProgramCost) -> ProgramCost:
        return ProgramCost(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> ProgramCost:
        return ProgramCost(*(one * times for one in astuple(self)))


Widths = dict[int, int]  # bytes that a number of a variable takes where it lies, of those that are widened on the way


def device_cost(jaxpr: Any, devices: int) -> ProgramCost:
    """The cost of a traced program (`jax.jit(f).trace(...).jaxpr`) on one of `devices`.

    What the compiler shards by itself is taken to be shared out evenly; what `jax.shard_map` runs is counted as each
    device's own. A conditional counts as its costliest branch. What is widened for a matmul, like weights in int8, is
    read as it lies: compilers fuse the two.
    """
    return _total(jaxpr, devices) * (1 / devices)


def _total(jaxpr: Any, devices: int, within: str = "", widths: Widths | None = None) -> ProgramCost:
    """`widths` of the jaxpr's inputs, where they are known."""
    total, widths = ProgramCost(), dict(widths or {})
    for eqn in _needed(getattr(jaxpr, "jaxpr", jaxpr)):
        if eqn.primitive.name in ("convert_element_type", "reshape", "transpose", "squeeze"):
            width = widths.get(id(eqn.invars[0]), eqn.invars[0].aval.dtype.itemsize)
            if width < eqn.outvars[0].aval.dtype.itemsize:
                widths[id(eqn.outvars[0])] = width
        total += _cost(eqn, devices, within, widths)
    return total


def _needed(jaxpr: Any) -> list[Any]:
    """The equations whose results lead to the jaxpr's, or that do something else; a compiler leaves out the others.

    Recomputation leaves some: the forward kernel of attention, where all that it gives was kept.
    """
    live, equations = {id(variable) for variable in jaxpr.outvars}, []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(variable) in live for variable in eqn.outvars):
            equations.append(eqn)
            live.update(id(variable) for variable in eqn.invars)
    return equations[::-1]


def _cost(eqn: Any, devices: int, within: str, widths: Widths) -> ProgramCost:
    """`within` names the calls around this equation, up to the closest loop: names inside of a call begin anew."""
    name, params = eqn.primitive.name, eqn.params
    scope = f"{within}/{eqn.source_info.name_stack}"
    match name:
        case "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            size = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            traffic = 0.0 if ON_CHIP in scope else _bytes(*eqn.invars, *eqn.outvars, widths=widths)
            flops = 2.0 * size * eqn.outvars[0].aval.size
            in_float8 = all(x.aval.dtype.name.startswith("float8") for x in eqn.invars)
            in_int8 = all(x.aval.dtype.name == "int8" for x in eqn.invars)
            return ProgramCost(flops, flops * in_float8, flops * in_int8, traffic)
        case "dynamic_slice" if ON_CHIP in scope:  # what such a loop reads of the arrays around it
            return ProgramCost(traffic=_bytes(*eqn.outvars))
        case "ragged_dot" | "ragged_dot_general":
            # tokens x in, groups x in x out: each row meets one group's matrix, whichever axis is summed over
            rows, wide = eqn.invars[0].aval.shape[-2:]
            other = eqn.invars[1].aval.shape
            return ProgramCost(2.0 * rows * wide * other[-1], traffic=_bytes(*eqn.invars, *eqn.outvars, widths=widths))
        case "gather":
            return ProgramCost(traffic=2 * _bytes(*eqn.outvars))
        case "scatter-add" | "scatter_add" | "scatter":
            return ProgramCost(traffic=3 * _bytes(eqn.invars[2]))
        case "scan":
            return _total(params["jaxpr"], devices) * params["length"]
        case "while":
            trip_count = read_trip_count(scope)
            marks = ON_CHIP if ON_CHIP in scope else ""
            body = _total(params["body_jaxpr"], devices, marks) + _total(params["cond_jaxpr"], devices)
            return body * (1.0 if trip_count is None else trip_count)
        case "cond":
            return max((_total(branch, devices, scope) for branch in params["branches"]), key=lambda each: each.flops)
        case "shard_map":
            return _total(params["jaxpr"], devices) * devices
        case "pallas_call":
            steps = read_trip_count(scope) or math.prod(params["grid_mapping"].grid)
            body = _total(params["jaxpr"], devices)
            part = read_bytes(scope)
            traffic = _bytes(*eqn.invars, *eqn.outvars) if part is None else part
            return replace(body * steps, traffic=traffic)
    total = ProgramCost()
    for inner in _programs(params.values()):
        inputs = getattr(inner, "jaxpr", inner).invars
        pairs = zip(inputs, eqn.invars, strict=True) if len(inputs) == len(eqn.invars) else ()
        total += _total(
            inner, devices, scope, {id(ours): widths[id(given)] for ours, given in pairs if id(given) in widths}
        )
    return total


def _programs(values: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters: calls of every kind keep theirs there."""
    for value in values:
        if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns"):
            yield value


def _bytes(*variables: Any, widths: Widths | None = None) -> float:
    arrays = [v for v in variables if hasattr(v.aval, "dtype")]
    return float(sum(v.aval.size * (widths or {}).get(id(v), v.aval.dtype.itemsize) for v in arrays))
