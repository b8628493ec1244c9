"""Attention within segments as two Triton kernels, for GPUs: forward and backward.

FlashAttention-2 (arXiv 2307.08691, algorithms 1 and 2). Each program of a grid takes one block of queries (backward: of
keys) of one head and meets only the blocks that hold its segments, so that several trajectories in a row cost what they
cost alone; padding, of segment 0, meets nothing. The backward pass makes the scores once: programs add their parts of
the queries' gradient to each other's in float32, in whatever order they come, so its last bits differ from run to run.
Axis letters: B rows, T tokens, H query heads, K key heads, G query heads a key head, D values a head, N blocks.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from hypereyes_jax.models.qwen3_vl.checkpoint_names import ATTENTION_NORMALISER, ATTENTION_OUT
from hypereyes_jax.models.qwen3_vl.segment_blocks import blocks_meet
from hypereyes_jax.models.trip_counts import expected_trip_count
from hypereyes_jax.models.triton import LEAST, dot, launch, on_platform

_MASKED = -1e30  # finite: what is masked whole weighs nothing, without NaN
_LOG2_E = math.log2(math.e)
_FORWARD = (128, 64)  # queries and keys of a block
_BACKWARD = (64, 64)
_UNIT = 128  # rows are padded to a multiple of every block


def triton_attention(
    q_BTHD: jax.Array, k_BTKD: jax.Array, v_BTKD: jax.Array, segment_BT: jax.Array, *, causal: bool
) -> jax.Array:
    """[B, T, H * D]: each token attends to those of its own segment (and, if causal, not to later ones).

    Args:
      segment_BT: int32, growing along a row as packing numbers them; 0 is padding, whose result is zero.
    """
    batch, length, heads, size = q_BTHD.shape
    wide = max(LEAST, pl.next_power_of_2(size))
    pad = ((0, 0), (0, -length % _UNIT), (0, 0), (0, wide - size))
    q, k, v = (jnp.pad(x, pad) for x in (q_BTHD, k_BTKD, v_BTKD))
    segment = jnp.pad(segment_BT, pad[:2])
    out = _attend((causal, size**-0.5), q, k, v, segment)
    return out[:, :length, :, :size].reshape(batch, length, heads * size)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(form: tuple[bool, float], q: Any, k: Any, v: Any, segment: Any) -> jax.Array:
    return _forward(form, q, k, v, segment)[0]


def _forward(form: tuple[bool, float], q: Any, k: Any, v: Any, segment: Any) -> Any:
    out, normaliser = on_platform(partial(_run_forward, form), q, k, v, segment)
    # Kept over recomputation by a policy that names them: `layers.rematerialised`.
    out, normaliser = checkpoint_name(out, ATTENTION_OUT), checkpoint_name(normaliser, ATTENTION_NORMALISER)
    return out, (q, k, v, segment, out, normaliser)


def _backward(form: tuple[bool, float], residuals: Any, d_out: jax.Array) -> Any:
    q, k, v, segment, out, normaliser = residuals
    delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1).swapaxes(1, 2)
    arrays = (q, k, v, segment, d_out, normaliser, delta)
    return *on_platform(partial(_run_backward, form), *arrays), np.zeros(segment.shape, jax.dtypes.float0)


_attend.defvjp(_forward, _backward)


def _visible(segment: jax.Array, block: int, other: int, causal: bool, queries: bool) -> jax.Array:
    """int32 [B, N, 2]: the half-open range of other blocks that each block meets; empty for nothing but padding.

    Args:
      queries: the blocks are of queries, and the others of keys.
    """
    meets = blocks_meet(segment, block, other)
    own, others = np.arange(meets.shape[1])[:, None], np.arange(meets.shape[2])
    if causal:
        meets &= others * other < (own + 1) * block if queries else (others + 1) * other > own * block
    first = jnp.min(jnp.where(meets, others, others.size), axis=-1)
    stop = jnp.max(jnp.where(meets, others + 1, 0), axis=-1)
    return jnp.stack([jnp.minimum(first, stop), stop], axis=-1).astype(jnp.int32)


def _seen(segment_q: Any, segment_k: Any, place_q: Any, place_k: Any, causal: bool) -> jax.Array:
    """bool [queries, keys]"""
    seen = (segment_q[:, None] == segment_k[None]) & (segment_q > 0)[:, None]
    return seen & (place_q[:, None] >= place_k[None]) if causal else seen


def _expected(length: int, blocks: tuple[int, int], causal: bool, programs: int) -> Any:
    """Trips of a kernel's loops all together, if each row holds one segment."""
    met = (length / blocks[0]) * (length / blocks[1])
    return expected_trip_count(programs * (met / 2 + length / blocks[0] / 2 if causal else met))


def _run_forward(form: tuple[bool, float], q: Any, k: Any, v: Any, segment: Any, *, interpret: bool) -> Any:
    causal, scale = form
    batch, length, heads, size = q.shape
    group = heads // k.shape[2]
    block_q, block_k = _FORWARD

    def kernel(
        q_ref: Any, k_ref: Any, v_ref: Any, segment_ref: Any, meets_ref: Any, out_ref: Any, normaliser_ref: Any
    ) -> None:
        number, head, row = pl.program_id(0), pl.program_id(1), pl.program_id(2)
        here = pl.ds(number * block_q, block_q)
        place_q = number * block_q + jnp.arange(block_q)
        block, segment_q = q_ref[row, here, head, :], segment_ref[row, here]

        def keys(other: Any, carry: Any) -> Any:
            peak, mass, total = carry
            there = pl.ds(other * block_k, block_k)
            score = dot(block, k_ref[row, there, head // group, :].T) * (scale * _LOG2_E)
            place_k = other * block_k + jnp.arange(block_k)
            seen = _seen(segment_q, segment_ref[row, there], place_q, place_k, causal)
            score = jnp.where(seen, score, _MASKED)
            new_peak = jnp.maximum(peak, jnp.max(score, axis=-1))
            weight = jnp.where(seen, jnp.exp2(score - new_peak[:, None]), 0.0)
            shrink = jnp.exp2(peak - new_peak)
            part = dot(weight.astype(block.dtype), v_ref[row, there, head // group, :])
            return new_peak, mass * shrink + jnp.sum(weight, axis=-1), total * shrink[:, None] + part

        start = (jnp.full(block_q, _MASKED), jnp.zeros(block_q), jnp.zeros((block_q, size)))
        peak, mass, total = jax.lax.fori_loop(meets_ref[row, number, 0], meets_ref[row, number, 1], keys, start)
        mass = jnp.where(mass > 0, mass, 1.0)  # of padding, which met nothing
        out_ref[row, here, head, :] = (total / mass[:, None]).astype(out_ref.dtype)
        normaliser_ref[row, head, here] = peak + jnp.log2(mass)

    with _expected(length, _FORWARD, causal, batch * heads):
        return launch(
            kernel,
            (length // block_q, heads, batch),
            [jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)],
            q, k, v, segment, _visible(segment, block_q, block_k, causal, queries=True),
            interpret=interpret, name="attention_forward", warps=8,
        )  # fmt: skip


def _run_backward(
    form: tuple[bool, float], q: Any, k: Any, v: Any, segment: Any, d_out: Any, normaliser: Any, delta: Any, *,
    interpret: bool,
) -> Any:  # fmt: skip
    causal, scale = form
    batch, length, heads, size = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    block_q, block_k = _BACKWARD

    def kernel(*refs: Any) -> None:
        q_ref, k_ref, v_ref, segment_ref, d_out_ref, normaliser_ref, delta_ref, meets_ref, *of_results = refs
        _zeros_ref, d_q_ref, d_k_ref, d_v_ref = of_results
        number, kv_head, row = pl.program_id(0), pl.program_id(1), pl.program_id(2)
        here = pl.ds(number * block_k, block_k)
        place_k = number * block_k + jnp.arange(block_k)
        key, value, segment_k = k_ref[row, here, kv_head, :], v_ref[row, here, kv_head, :], segment_ref[row, here]
        first, stop = meets_ref[row, number, 0], meets_ref[row, number, 1]

        def queries(count: Any, carry: Any) -> Any:
            d_k, d_v = carry
            head, other = kv_head * group + count // (stop - first), first + count % (stop - first)
            there = pl.ds(other * block_q, block_q)
            block, d_block = q_ref[row, there, head, :], d_out_ref[row, there, head, :]
            place_q = other * block_q + jnp.arange(block_q)
            seen = _seen(segment_ref[row, there], segment_k, place_q, place_k, causal)
            score = dot(block, key.T) * (scale * _LOG2_E)
            weight = jnp.where(seen, jnp.exp2(score - normaliser_ref[row, head, there][:, None]), 0.0)
            d_v += dot(weight.astype(block.dtype).T, d_block)
            d_weight = dot(d_block, value.T)
            d_score = (weight * (d_weight - delta_ref[row, head, there][:, None])).astype(block.dtype)
            triton.atomic_add(d_q_ref, (row, there, head, slice(None)), dot(d_score, key) * scale)
            return d_k + dot(d_score.T, block), d_v

        zeros = jnp.zeros((block_k, size))
        d_k, d_v = jax.lax.fori_loop(0, (stop - first) * group, queries, (zeros, zeros))
        d_k_ref[row, here, kv_head, :] = (d_k * scale).astype(d_k_ref.dtype)
        d_v_ref[row, here, kv_head, :] = d_v.astype(d_v_ref.dtype)

    meets = _visible(segment, block_k, block_q, causal, queries=False)
    with _expected(length, _BACKWARD, causal, batch * heads):
        d_q, d_k, d_v = launch(
            kernel,
            (length // block_k, kv_heads, batch),
            [jax.ShapeDtypeStruct(q.shape, jnp.float32), *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v))],
            q, k, v, segment, d_out, normaliser, delta, meets, jnp.zeros(q.shape, jnp.float32),
            interpret=interpret, name="attention_backward", aliases={8: 0},
        )  # fmt: skip
    return d_q.astype(q.dtype), d_k, d_v
