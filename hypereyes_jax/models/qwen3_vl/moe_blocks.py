"""Experts in blocks: assignments sorted by expert, a few hundred at a time through one expert's plain matmuls.

Nothing is dropped, however unevenly the router spreads the tokens, and no copy of all assignments is ever held: a block
gathers its tokens and adds to them what its expert gives. The loop is as long as the device's own experts have work.
Axis letters: N tokens, D model width, E experts, A = N * experts a token (token, expert) assignments, b a block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.models.trip_counts import expected_trip_count

BLOCK = 1024
Expert = Callable[[Any, Any, jax.Array, Any], jax.Array]  # (frozen, trained, x [b, D], dropout key) -> [b, D]


class _Schedule(NamedTuple):
    """Who has how much to do."""

    order_A: jax.Array  # assignments, those of expert 0 first, those of experts elsewhere last
    begin_E: jax.Array  # where an expert's begin in that order
    size_E: jax.Array
    blocks_E: jax.Array  # how many blocks its assignments fill
    done_E: jax.Array  # blocks of it and all before it


class _Blocks(NamedTuple):
    """What is known when a program is traced."""

    expert: Expert
    experts: int  # that are here
    rows: int  # assignments of a block
    trip_count: float  # blocks that are expected


class ExpertWeights(NamedTuple):
    """Weights of all experts, each leaf with a leading E."""

    frozen: Any
    trained: Any  # gets a gradient


def blocked_experts(
    expert: Expert,
    weights: ExpertWeights,
    x_ND: jax.Array,
    gate_NK: jax.Array,
    expert_NK: jax.Array,
    count: int,
    dropout_key: jax.Array | None,
    share: float = 1.0,
    block: int = BLOCK,
) -> jax.Array:
    """[N, D]: sum over a token's experts of gate * expert(x). Ids outside of 0 .. count - 1 add nothing.

    Differentiable in the trained weights, x and gate; the backward pass computes each block again.

    Args:
      share: of the assignments that are expected to be of these experts. It changes no result.
    """
    block = min(block, expert_NK.size)
    trip_count = expert_NK.size * share / block + count / 2  # an expert's last block is half full on average
    blocks = _Blocks(expert, count, block, trip_count)
    return _run(blocks, weights.frozen, weights.trained, x_ND, gate_NK, expert_NK, dropout_key)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(blocks: _Blocks, frozen: Any, trained: Any, x_ND: Any, gate_NK: Any, expert_NK: Any, key: Any) -> jax.Array:
    return _forward(blocks, frozen, trained, x_ND, gate_NK, expert_NK, key)[0]


def _plan(expert_NK: jax.Array, count: int, block: int) -> _Schedule:
    expert_A = expert_NK.reshape(-1)
    size = expert_A.size
    if (count + 1) * size > np.iinfo(np.int32).max:
        raise ValueError(f"{size} assignments to {count} experts are too many for one device: use a smaller batch")
    expert_A = jnp.where((expert_A >= 0) & (expert_A < count), expert_A, count)
    # Expert and place in one number that is sorted alone, and counted by search: a stable argsort of two million
    # assignments and their bincount cost a TPU's compiler half of a training step's compilation.
    sorted_A = jnp.sort(expert_A * size + jnp.arange(size), stable=False)
    begin_E = jnp.searchsorted(sorted_A, jnp.arange(count + 1) * size).astype(jnp.int32)
    size_E = jnp.diff(begin_E)
    blocks_E = (size_E + block - 1) // block
    return _Schedule(
        order_A=sorted_A % size,
        begin_E=begin_E[:-1],
        size_E=size_E,
        blocks_E=blocks_E,
        done_E=jnp.cumsum(blocks_E),
    )


def _members(schedule: _Schedule, number: jax.Array, block: int, each: int, tokens: int) -> Any:
    """What block `number` has: its expert, its assignments and tokens [b]; past the last one `tokens`, out of range.

    Out-of-range tokens are clipped when gathered and dropped when added to, and a token is in a block once at most.
    """
    which = jnp.searchsorted(schedule.done_E, number, side="right")
    begin = (number - schedule.done_E[which] + schedule.blocks_E[which]) * block
    place_b = begin + jnp.arange(block)
    mine_b = place_b < schedule.size_E[which]
    assignment_b = schedule.order_A[jnp.minimum(schedule.begin_E[which] + place_b, schedule.order_A.size - 1)]
    token_b = jnp.where(mine_b, assignment_b // each, tokens + jnp.arange(block))
    return which, assignment_b, token_b, mine_b


def _forward(blocks: _Blocks, frozen: Any, trained: Any, x_ND: Any, gate_NK: Any, expert_NK: Any, key: Any) -> Any:
    expert, count, block, trip_count = blocks
    schedule = _plan(expert_NK, count, block)
    gate_A = gate_NK.reshape(-1)

    def one(number: jax.Array, out_ND: jax.Array) -> jax.Array:
        which, assignment_b, token_b, _ = _members(schedule, number, block, expert_NK.shape[1], x_ND.shape[0])
        own, train = jax.tree.map(lambda leaf: leaf[which], (frozen, trained))
        x_bD = x_ND.at[token_b].get(mode="clip")
        y_bD = expert(own, train, x_bD, _of(key, number)) * gate_A[assignment_b][:, None]
        return out_ND.at[token_b].add(y_bD, mode="drop", unique_indices=True)

    with expected_trip_count(trip_count):
        out_ND = jax.lax.fori_loop(0, schedule.done_E[-1], one, jnp.zeros_like(x_ND))
    return out_ND, (frozen, trained, x_ND, gate_NK, expert_NK, key)


def _backward(blocks: _Blocks, residuals: Any, d_out_ND: jax.Array) -> Any:
    expert, count, block, trip_count = blocks
    frozen, trained, x_ND, gate_NK, expert_NK, key = residuals
    schedule = _plan(expert_NK, count, block)
    gate_A = gate_NK.reshape(-1)

    def one(number: jax.Array, sums: Any) -> Any:
        d_trained, d_x_ND, d_gate_A = sums
        which, assignment_b, token_b, mine_b = _members(schedule, number, block, expert_NK.shape[1], x_ND.shape[0])
        own, train = jax.tree.map(lambda leaf: leaf[which], (frozen, trained))
        x_bD = x_ND.at[token_b].get(mode="clip")
        y_bD, back = jax.vjp(lambda t, x: expert(own, t, x, _of(key, number)), train, x_bD)
        d_bD = jnp.where(mine_b[:, None], d_out_ND.at[token_b].get(mode="clip"), 0)
        d_gate_b = jnp.sum(d_bD.astype(jnp.float32) * y_bD.astype(jnp.float32), axis=-1)
        d_train, d_x_bD = back((d_bD * gate_A[assignment_b][:, None]).astype(y_bD.dtype))
        return (
            jax.tree.map(lambda total, part: total.at[which].add(part.astype(total.dtype)), d_trained, d_train),
            d_x_ND.at[token_b].add(d_x_bD, mode="drop", unique_indices=True),
            d_gate_A.at[jnp.where(mine_b, assignment_b, gate_A.size + jnp.arange(block))].set(
                d_gate_b, mode="drop", unique_indices=True
            ),
        )

    # An expert adds up hundreds of blocks: in float32, whatever the weights are in.
    start = (jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), trained), jnp.zeros_like(x_ND),
             jnp.zeros(gate_A.shape, jnp.float32))  # fmt: skip
    with expected_trip_count(trip_count):
        d_trained, d_x_ND, d_gate_A = jax.lax.fori_loop(0, schedule.done_E[-1], one, start)
    d_trained = jax.tree.map(lambda d, leaf: d.astype(leaf.dtype), d_trained, trained)
    return None, d_trained, d_x_ND, d_gate_A.reshape(gate_NK.shape).astype(gate_NK.dtype), None, None


_run.defvjp(_forward, _backward)


def _of(key: Any, number: jax.Array) -> Any:
    return None if key is None else jax.random.fold_in(key, number)
