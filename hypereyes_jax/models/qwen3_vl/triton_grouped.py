"""Matmuls of rows that each belong to one of many experts, as Triton kernels: forward, gradients, and adding up.

Assignments are sorted by expert. A program of a kernel's grid takes a block of one expert's assignments, fetches their
tokens itself, and stops at once where its block holds none. Axis letters: N tokens, D model width, E experts, F expert
width, K experts a token, A = N * K assignments (sorted by expert), C blocks of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from hypereyes_jax.models.quantized import Quantized
from hypereyes_jax.models.trip_counts import expected_bytes, expected_trip_count
from hypereyes_jax.models.triton import LEAST, dot, launch

_WIDE = 64  # columns and summed terms of a block
_COMBINED = 16  # tokens of a program that adds up
MOST_ROWS = 128  # assignments of a block


class ExpertSchedule(NamedTuple):
    """Who has how much to do."""

    order_A: jax.Array  # int32, assignments, those of expert 0 first, those of experts elsewhere last
    place_A: jax.Array  # int32, where an assignment lies in that order
    begin_C: jax.Array  # int32, where a block begins in that order
    size_C: jax.Array  # int32, its assignments; 0 = nothing to do
    expert_C: jax.Array  # int32
    begin_E: jax.Array  # int32, where an expert's begin
    size_E: jax.Array  # int32


class Block(NamedTuple):
    """Where a program's part of a result lies."""

    place: jax.Array  # int32, of its assignments in their order
    column: jax.Array  # int32
    real: jax.Array  # bool, of its assignments
    inside: jax.Array  # bool, of its columns

    def load(self, ref: Any) -> jax.Array:
        mask = self.real[:, None] & self.inside[None]
        values = triton.load(ref.at[self.place[:, None], self.column[None]], mask=mask, other=0.0)
        return values.astype(jnp.float32)

    def store(self, ref: Any, values: jax.Array, shift: int = 0) -> None:
        """`shift`: columns to the right."""
        mask = self.real[:, None] & self.inside[None]
        where = ref.at[self.place[:, None], (self.column + shift)[None]]
        triton.store(where, values.astype(ref.dtype), mask=mask)


class Form(NamedTuple):
    """What is known when a program is traced."""

    rows: int  # assignments of a block
    share: float  # of the assignments that are expected to be of these experts


class Factor(NamedTuple):
    """The part of each expert's matrix that rows are multiplied with."""

    weights: jax.Array | Quantized  # [E, terms, columns of all parts], or [E, columns, terms] if `turned`
    columns: int  # of a part
    starts: tuple[int, ...] = (0,)  # where each part's columns begin
    turned: bool = False  # not of weights in int8


class End(NamedTuple):
    """What a kernel makes of its products."""

    # (a float32 block of each part, where it lies, references to `more` and the results)
    make: Callable[..., None]
    results: list[Any]
    more: tuple[jax.Array, ...] = ()


def schedule_experts(expert_NK: jax.Array, count: int, rows: int) -> ExpertSchedule:
    """Sorts the assignments of tokens to experts by expert, and cuts each expert's into blocks of at most `rows`.

    Args:
      expert_NK: [N, K] integer, the K experts of each token; a number outside [0, count) is of an expert elsewhere.
      count: number of experts.
      rows: of a block.

    Returns:
      the plan of N * K // rows + count blocks, of which those that are not needed have size 0.
    """
    expert_A = expert_NK.reshape(-1).astype(jnp.int32)
    size = expert_A.size
    expert_A = jnp.where((expert_A >= 0) & (expert_A < count), expert_A, count)
    order_A = jnp.sort(expert_A * size + jnp.arange(size, dtype=jnp.int32), stable=False) % size
    place_A = jnp.zeros(size, jnp.int32).at[order_A].set(jnp.arange(size, dtype=jnp.int32), unique_indices=True)
    size_E = jnp.sum(expert_A[:, None] == jnp.arange(count), axis=0, dtype=jnp.int32)
    end_E = jnp.cumsum(size_E)
    blocks_E = -(-size_E // rows)
    done_E = jnp.cumsum(blocks_E)
    number_C = jnp.arange(size // rows + count)
    expert_C = jnp.minimum(jnp.sum(done_E <= number_C[:, None], axis=1), count - 1)
    inside_C = (number_C - done_E[expert_C] + blocks_E[expert_C]) * rows
    size_C = jnp.where(number_C < done_E[-1], jnp.clip(size_E[expert_C] - inside_C, 0, rows), 0)
    begin_E = end_E - size_E
    return ExpertSchedule(
        order_A=order_A,
        place_A=place_A,
        begin_C=(begin_E[expert_C] + inside_C).astype(jnp.int32),
        size_C=size_C.astype(jnp.int32),
        expert_C=expert_C.astype(jnp.int32),
        begin_E=begin_E.astype(jnp.int32),
        size_E=size_E,
    )


def keep(parts: Any, block: Block, *refs: Any) -> None:
    """Stores each part of a block's result in its array."""
    for part, ref in zip(parts, refs, strict=True):
        block.store(ref, part)


def block_width(size: int) -> int:
    """The width of the blocks that an axis of this size is cut into: a power of two."""
    return min(_WIDE, max(LEAST, int(pl.next_power_of_2(size))))


def _scope(
    form: Form, schedule: ExpertSchedule, terms: int, columns: int, weights: Any, steps: float
) -> contextlib.ExitStack:
    """What a kernel is expected to do: `steps` blocks of a matmul, and to read and write its rows and weights once."""
    scope = contextlib.ExitStack()
    scope.enter_context(expected_trip_count(steps))
    rows = schedule.order_A.size * form.share
    scope.enter_context(expected_bytes(rows * (terms + columns) * weights.dtype.itemsize + weights.nbytes))
    return scope


def _blocks(form: Form, schedule: ExpertSchedule) -> float:
    """Blocks of assignments that are expected to hold some; the last one of an expert is half full on average."""
    return schedule.order_A.size * form.share / form.rows + schedule.size_E.size / 2


def grouped_matmul(
    form: Form,
    schedule: ExpertSchedule,
    x: jax.Array,
    factor: Factor,
    end: End,
    *,
    each: int | None = None,
    interpret: bool,
    name: str,
) -> list[jax.Array]:
    """Each assignment's row times a part of its expert's matrix; `end` makes the results of it.

    Args:
      x: rows of assignments in their order, or rows of tokens.
      each: experts a token, if x holds tokens.
    """
    columns, starts, turned = factor.columns, factor.starts, factor.turned
    scales: tuple[jax.Array, ...] = ()
    if isinstance(factor.weights, Quantized):
        weights, scales = factor.weights.values, (factor.weights.scale.reshape(factor.weights.scale.shape[0], -1),)
    else:
        weights = factor.weights
    terms = x.shape[1]
    block_n, block_k = block_width(columns), block_width(terms)
    grid = (schedule.size_C.size, pl.cdiv(columns, block_n))

    def kernel(
        order_ref: Any, begin_ref: Any, size_ref: Any, expert_ref: Any, x_ref: Any, weights_ref: Any, *more_refs: Any
    ) -> Any:
        number = pl.program_id(0)
        begin, size, expert = begin_ref[number], size_ref[number], expert_ref[number]
        place = begin + jnp.arange(form.rows)
        real = jnp.arange(form.rows) < size
        row = place
        if each is not None:
            row = triton.load(order_ref.at[place], mask=real, other=0) // each
        column = pl.program_id(1) * block_n + jnp.arange(block_n)
        inside = column < columns

        def step(k: Any, parts: Any) -> Any:
            term = k * block_k + jnp.arange(block_k)
            some = term < terms
            left = triton.load(x_ref.at[row[:, None], term[None]], mask=real[:, None] & some[None], other=0.0)
            out = []
            for start, part in zip(starts, parts, strict=True):
                if turned:
                    place = (expert, (start + column)[:, None], term[None])
                    right = triton.load(weights_ref.at[place], mask=inside[:, None] & some[None], other=0.0).T
                else:
                    place = (expert, term[:, None], (start + column)[None])
                    right = triton.load(weights_ref.at[place], mask=some[:, None] & inside[None], other=0.0)
                out.append(part + dot(left, right.astype(left.dtype)))
            return tuple(out)

        start = tuple(jnp.zeros((form.rows, block_n)) for _ in starts)
        steps = jnp.minimum(size, 1) * pl.cdiv(terms, block_k)
        parts = jax.lax.fori_loop(0, steps, step, start)
        refs = more_refs
        if scales:
            scale_ref, refs = more_refs[0], more_refs[1:]
            scaled = [triton.load(scale_ref.at[expert, start + column], mask=inside, other=0.0) for start in starts]
            parts = tuple(part * scale[None] for part, scale in zip(parts, scaled, strict=True))
        end.make(parts, Block(place, column, real, inside), *refs)

    steps = _blocks(form, schedule) * grid[1] * pl.cdiv(terms, block_k)
    with _scope(form, schedule, terms, columns * len(starts), weights, steps):
        return launch(
            kernel, grid, end.results,
            schedule.order_A, schedule.begin_C, schedule.size_C, schedule.expert_C, x, weights, *scales, *end.more,
            interpret=interpret, name=name, warps=8 if form.rows == MOST_ROWS else 4, stages=3,
        )  # fmt: skip


def combine(
    form: Form, schedule: ExpertSchedule, y_AD: jax.Array, gate_NK: jax.Array, tokens: int, *, interpret: bool
) -> jax.Array:
    """[N, D]: sum over a token's experts that are here of gate * y."""
    each, width = gate_NK.shape[1], y_AD.shape[1]
    block = min(128, max(LEAST, int(pl.next_power_of_2(width))))

    def kernel(place_ref: Any, total_ref: Any, gate_ref: Any, y_ref: Any, out_ref: Any) -> Any:
        token = pl.program_id(0) * _COMBINED + jnp.arange(_COMBINED)
        column = pl.program_id(1) * block + jnp.arange(block)
        mask = (token < tokens)[:, None] & (column < width)[None]
        total = total_ref[0]

        def add(k: Any, out: Any) -> Any:
            place = triton.load(place_ref.at[token * each + k], mask=token < tokens, other=total)
            gate = triton.load(gate_ref.at[token * each + k], mask=token < tokens, other=0.0).astype(jnp.float32)
            here = mask & (place < total)[:, None]
            y = triton.load(y_ref.at[place[:, None], column[None]], mask=here, other=0.0).astype(jnp.float32)
            return out + jnp.where(here, y * gate[:, None], 0.0)

        out = jax.lax.fori_loop(0, each, add, jnp.zeros((_COMBINED, block)))
        triton.store(out_ref.at[token[:, None], column[None]], out.astype(out_ref.dtype), mask=mask)

    total = jnp.sum(schedule.size_E, dtype=jnp.int32).reshape(1)
    with expected_bytes((schedule.order_A.size * form.share + tokens) * width * y_AD.dtype.itemsize):
        return launch(
            kernel,
            (pl.cdiv(tokens, _COMBINED), pl.cdiv(width, block)),
            jax.ShapeDtypeStruct((tokens, width), y_AD.dtype),
            schedule.place_A, total, gate_NK.reshape(-1), y_AD,
            interpret=interpret, name="experts_combine",
        )  # fmt: skip


def weight_gradient(
    form: Form,
    schedule: ExpertSchedule,
    left: jax.Array,
    right: jax.Array,
    total_EDF: jax.Array,
    *,
    left_each: int | None = None,
    right_each: int | None = None,
    interpret: bool,
) -> jax.Array:
    """`total` plus, for each expert, the sum over its assignments of left's row times right's; in place.

    Args:
      left, right: rows of assignments in their order, or rows of tokens.
      left_each, right_each: experts a token, of the one that holds tokens.
    """
    count, height, width = total_EDF.shape
    block_m, block_n, block_k = block_width(height), block_width(width), 64

    def kernel(
        order_ref: Any, begin_ref: Any, size_ref: Any, left_ref: Any, right_ref: Any, _total_ref: Any, out_ref: Any
    ) -> Any:
        expert = pl.program_id(2)
        begin, size = begin_ref[expert], size_ref[expert]
        row = pl.program_id(0) * block_m + jnp.arange(block_m)
        column = pl.program_id(1) * block_n + jnp.arange(block_n)

        def step(k: Any, out: Any) -> Any:
            place = k * block_k + jnp.arange(block_k)
            real = place < size
            of_left, of_right = (
                begin + place if each is None else triton.load(order_ref.at[begin + place], mask=real, other=0) // each
                for each in (left_each, right_each)
            )
            mask = real[:, None] & (row < height)[None]
            a = triton.load(left_ref.at[of_left[:, None], row[None]], mask=mask, other=0.0)
            mask = real[:, None] & (column < width)[None]
            b = triton.load(right_ref.at[of_right[:, None], column[None]], mask=mask, other=0.0)
            return out + dot(a.T, b)

        place = (expert, row[:, None], column[None])
        mask = (row < height)[:, None] & (column < width)[None]
        start = triton.load(out_ref.at[place], mask=mask, other=0.0)
        triton.store(out_ref.at[place], jax.lax.fori_loop(0, pl.cdiv(size, block_k), step, start), mask=mask)

    grid = (pl.cdiv(height, block_m), pl.cdiv(width, block_n), count)
    steps = grid[0] * grid[1] * (schedule.order_A.size * form.share / block_k + count / 2)
    with _scope(form, schedule, height, width, total_EDF, steps):
        return launch(
            kernel, grid, jax.ShapeDtypeStruct(total_EDF.shape, jnp.float32),
            schedule.order_A, schedule.begin_E, schedule.size_E, left, right, total_EDF,
            interpret=interpret, name="experts_weight_gradient", aliases={5: 0}, stages=3,
        )  # fmt: skip
