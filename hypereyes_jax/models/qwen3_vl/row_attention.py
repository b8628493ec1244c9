"""Attention within the segments of one row, for CPUs: blocks of scores that stay in a core's cache, both ways.

The backward pass makes the scores again from the saved logarithm of each query's sum, as in FlashAttention-2 (arXiv
2307.08691, algorithm 2), but a block of queries meets all its keys at once: a running softmax would pass over the
scores once more. Axis letters: T tokens of a row, K key heads, M queries of the heads that share a key head, head by
head, S keys, D values a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

_MASKED = -1e30  # finite: what is masked whole gives an average, not NaN
_BLOCK = 128  # queries whose scores are held at once: small enough for a core's cache, large enough for its matmul
_MAX_BLOCKS = 8  # blocks are unrolled, so long rows get longer ones


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def row_attention(q_THD: jax.Array, k_TKD: jax.Array, v_TKD: jax.Array, segment_T: jax.Array, causal: bool) -> Any:
    """[T, H * D]: each token attends to those of its own segment (and, if causal, not to later ones).

    Queries of a causal block see no key beyond the block's last, nor, where segments end early enough, the first half
    of the keys before: packed rows compute few scores that are masked.
    """
    return _forward(q_THD, k_TKD, v_TKD, segment_T, causal)[0]


def _forward(q_THD: jax.Array, k_TKD: jax.Array, v_TKD: jax.Array, segment_T: jax.Array, causal: bool) -> Any:
    length, heads, size = q_THD.shape
    q_KGTD, k_KSD, v_KSD = _by_head(q_THD, k_TKD) * size**-0.5, k_TKD.swapaxes(0, 1), v_TKD.swapaxes(0, 1)

    def attend(start: int, stop: int, first: int, end: int) -> Any:
        scores = _scores(q_KGTD, k_KSD, segment_T, causal, start, stop, first, end)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weight = jnp.exp(scores - top)
        total = jnp.sum(weight, axis=-1, keepdims=True)
        out = _matmul(weight.astype(v_KSD.dtype), v_KSD[:, first:end]) / total
        return out, top + jnp.log(total)

    blocks_of_queries = [_narrowest(attend, segment_T, causal, start, stop) for start, stop in query_blocks(length)]
    groups = heads // k_TKD.shape[1]
    out_KGTD, lse_KGT1 = (
        jnp.concatenate([_split(block, groups) for block in blocks], axis=2)
        for blocks in zip(*blocks_of_queries, strict=True)
    )
    out_THD = out_KGTD.transpose(2, 0, 1, 3).reshape(length, heads, size)
    residuals = (q_THD, k_TKD, v_TKD, segment_T, out_THD, lse_KGT1)
    return out_THD.astype(q_THD.dtype).reshape(length, heads * size), residuals


def _backward(causal: bool, residuals: Any, d_out: jax.Array) -> Any:
    q_THD, k_TKD, v_TKD, segment_T, out_THD, lse_KGT1 = residuals
    length, heads, size = q_THD.shape
    q_KGTD, k_KSD, v_KSD = _by_head(q_THD, k_TKD) * size**-0.5, k_TKD.swapaxes(0, 1), v_TKD.swapaxes(0, 1)
    d_out_KGTD = _by_head(d_out.reshape(length, heads, size), k_TKD)
    delta_KGT1 = jnp.sum(_by_head(out_THD, k_TKD) * d_out_KGTD.astype(jnp.float32), axis=-1, keepdims=True)

    def attend(start: int, stop: int, first: int, end: int) -> Any:
        lse, delta, d_out_KMD = (_join(x[:, :, start:stop]) for x in (lse_KGT1, delta_KGT1, d_out_KGTD))
        k, v = k_KSD[:, first:end], v_KSD[:, first:end]
        weight = jnp.exp(_scores(q_KGTD, k_KSD, segment_T, causal, start, stop, first, end) - lse)
        d_weight = _matmul(d_out_KMD, v.swapaxes(1, 2))
        d_scores = (weight * (d_weight - delta)).astype(k.dtype)
        d_q = _matmul(d_scores, k)
        d_k = _matmul(d_scores.swapaxes(1, 2), _join(q_KGTD[:, :, start:stop]))
        d_v = _matmul(weight.astype(v.dtype).swapaxes(1, 2), d_out_KMD)
        unseen = ((0, 0), (first, 0), (0, 0))
        return d_q, jnp.pad(d_k, unseen), jnp.pad(d_v, unseen)

    groups = heads // k_TKD.shape[1]
    d_k, d_v = (jnp.zeros(k_KSD.shape, jnp.float32) for _ in range(2))
    d_q = []
    for start, stop in query_blocks(length):
        d_q_KMD, more_k, more_v = _narrowest(attend, segment_T, causal, start, stop)
        d_q.append(_split(d_q_KMD, groups))
        end = more_k.shape[1]
        d_k, d_v = d_k.at[:, :end].add(more_k), d_v.at[:, :end].add(more_v)
    d_q_THD = jnp.concatenate(d_q, axis=2).transpose(2, 0, 1, 3).reshape(length, heads, size) * size**-0.5
    back = (d_q_THD.astype(q_THD.dtype), d_k.swapaxes(0, 1).astype(k_TKD.dtype), d_v.swapaxes(0, 1).astype(v_TKD.dtype))
    return *back, None


row_attention.defvjp(_forward, _backward)


def query_blocks(length: int) -> list[tuple[int, int]]:
    """[start, stop) of each block of queries."""
    block = max(_BLOCK, _BLOCK * math.ceil(length / (_BLOCK * _MAX_BLOCKS)))
    return [(start, min(start + block, length)) for start in range(0, length, block)]


def _narrowest(
    attend: Callable[[int, int, int, int], Any], segment_T: jax.Array, causal: bool, start: int, stop: int
) -> Any:
    """`attend(start, stop, first, end)` of queries [start, stop) with as few keys [first, end) as the segments need."""
    length = segment_T.shape[0]
    if not causal:
        return attend(start, stop, 0, length)
    half = stop // 2 // _BLOCK * _BLOCK
    if half == 0 or half > start:
        return attend(start, stop, 0, stop)
    sees_early = jnp.any(segment_T[start:stop, None] == segment_T[:half])
    return jax.lax.cond(sees_early, lambda: attend(start, stop, 0, stop), lambda: attend(start, stop, half, stop))


def _scores(
    q_KGTD: jax.Array, k_KSD: jax.Array, segment_T: jax.Array, causal: bool, start: int, stop: int, first: int, end: int
) -> jax.Array:
    """[K, M, S] of queries [start, stop) and keys [first, end), float32."""
    scores = _matmul(_join(q_KGTD[:, :, start:stop]), k_KSD[:, first:end].swapaxes(1, 2))
    mask = segment_T[start:stop, None] == segment_T[first:end]
    if causal:
        mask &= jnp.arange(start, stop)[:, None] >= jnp.arange(first, end)
    groups = q_KGTD.shape[1]
    masked = jnp.where(mask, scores.reshape(-1, groups, stop - start, end - first), _MASKED)
    return masked.reshape(scores.shape)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _by_head(x_THD: jax.Array, k_TKD: jax.Array) -> jax.Array:
    """[K, G, T, D]: query head h belongs to key head h // G."""
    length, heads, size = x_THD.shape
    kv_heads = k_TKD.shape[1]
    return x_THD.reshape(length, kv_heads, heads // kv_heads, size).transpose(1, 2, 0, 3)


def _join(x_KGTD: jax.Array) -> jax.Array:
    return x_KGTD.reshape(x_KGTD.shape[0], -1, x_KGTD.shape[-1])


def _split(x_KMD: jax.Array, groups: int) -> jax.Array:
    return x_KMD.reshape(x_KMD.shape[0], groups, -1, x_KMD.shape[-1])
