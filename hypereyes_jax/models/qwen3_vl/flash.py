"""Attention in memory linear in the length, from plain matmuls: runs on any platform that XLA compiles for.

The running softmax of FlashAttention-2 (arXiv 2307.08691, algorithms 1 and 2) over blocks of queries and keys, of which
those are skipped that no query may see. Axis letters: N blocks, B rows, K key heads, G query heads a key head, Q / S
queries / keys of a block, D values a head.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hypereyes_jax.models.trip_counts import ON_CHIP, expected_trip_count

_MASKED = -1e30  # finite: a block that is masked whole is forgotten at the first that is not, without NaN
_BLOCK = 512  # float32 scores of 8 heads then fill 8 MiB, which a GPU's level-2 cache holds


def flash_attention(
    q_BTHD: jax.Array,
    k_BTKD: jax.Array,
    v_BTKD: jax.Array,
    segment_BT: jax.Array,
    *,
    causal: bool,
    block: int = _BLOCK,
) -> jax.Array:
    """[B, T, H * D]: each token attends to those of its own segment (and, if causal, not to later ones).

    Args:
      segment_BT: each segment is one run of tokens, as packing lays them out.
      block: queries and keys that meet at once; shorter sequences make one block.
    """
    batch, length, heads, size = q_BTHD.shape
    kv_heads = k_BTKD.shape[2]
    block = min(block, length)
    count = -(-length // block)
    more = count * block - length
    segment = jnp.pad(segment_BT, ((0, 0), (0, more)), constant_values=-1)

    def blocks(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0)))
        x = x.reshape(batch, count, block, kv_heads, -1, size).transpose(1, 0, 3, 4, 2, 5)
        return x  # [N, B, K, G, Q, D]

    sees_N2, seen_N2 = _visible(segment, block, causal)
    segment_NBQ = segment.reshape(batch, count, block).swapaxes(0, 1)
    k, v = (blocks(x)[:, :, :, 0] for x in (k_BTKD, v_BTKD))
    out = _flash(causal, blocks(q_BTHD * size**-0.5), k, v, segment_NBQ, sees_N2, seen_N2)
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(batch, count * block, heads * size)
    return out[:, :length]


def _visible(segment_BT: jax.Array, block: int, causal: bool) -> tuple[jax.Array, jax.Array]:
    """Half-open ranges of blocks: of the keys that a block of queries sees, of the queries that see a block of keys."""
    length = segment_BT.shape[1]
    place = jnp.arange(length)
    changes = jnp.diff(segment_BT, axis=1) != 0
    begins = jnp.pad(changes, ((0, 0), (1, 0)), constant_values=True)
    ends = jnp.pad(changes, ((0, 0), (0, 1)), constant_values=True)
    begin_BT = jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
    end_BT = jax.lax.cummin(jnp.where(ends, place + 1, length), axis=1, reverse=True)
    first = jnp.min(begin_BT.reshape(-1, length // block, block), axis=(0, 2)) // block
    stop = (jnp.max(end_BT.reshape(-1, length // block, block), axis=(0, 2)) + block - 1) // block
    own = jnp.arange(length // block)
    sees = jnp.stack([first, own + 1 if causal else stop], axis=-1)
    seen = jnp.stack([own if causal else first, stop], axis=-1)
    return sees, seen


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(causal: bool, q: Any, k: Any, v: Any, segment: Any, sees_N2: Any, seen_N2: Any) -> jax.Array:
    return _forward(causal, q, k, v, segment, sees_N2, seen_N2)[0]


def _scores(causal: bool, q: Any, k: Any, segment: Any, n: Any, s: Any) -> jax.Array:
    """[B, K, G, Q, S] of query block n and key block s, float32."""
    scores = jnp.einsum("bkgqd,bksd->bkgqs", q[n], k[s], preferred_element_type=jnp.float32)
    mask = segment[n][:, :, None] == segment[s][:, None, :]
    if causal:
        block = q.shape[4]
        mask &= n * block + jnp.arange(block)[:, None] >= s * block + jnp.arange(block)
    return jnp.where(mask[:, None, None], scores, _MASKED)


def _trip_count(causal: bool, count: int) -> float:
    """Blocks that one block meets, if a row holds one segment."""
    return (count + 1) / 2 if causal else float(count)


def _forward(causal: bool, q: Any, k: Any, v: Any, segment: Any, sees_N2: Any, seen_N2: Any) -> Any:
    count = q.shape[0]

    def query_block(n: jax.Array) -> tuple[jax.Array, jax.Array]:
        def key_block(s: jax.Array, carry: Any) -> Any:
            peak, mass, total = carry
            scores = _scores(causal, q, k, segment, n, s)
            new_peak = jnp.maximum(peak, jnp.max(scores, axis=-1))
            weight, shrink = jnp.exp(scores - new_peak[..., None]), jnp.exp(peak - new_peak)
            part = jnp.einsum("bkgqs,bksd->bkgqd", weight.astype(v.dtype), v[s], preferred_element_type=jnp.float32)
            return new_peak, mass * shrink + jnp.sum(weight, axis=-1), total * shrink[..., None] + part

        shape = q.shape[1:]
        start = (jnp.full(shape[:-1], _MASKED), jnp.zeros(shape[:-1]), jnp.zeros(shape))
        with expected_trip_count(_trip_count(causal, count)), jax.named_scope(ON_CHIP):
            peak, mass, total = jax.lax.fori_loop(sees_N2[n, 0], sees_N2[n, 1], key_block, start)
        return (total / mass[..., None]).astype(q.dtype), peak + jnp.log(mass)

    out, normaliser = jax.lax.map(query_block, jnp.arange(count))
    return out, (q, k, v, segment, seen_N2, out, normaliser)


def _backward(causal: bool, residuals: Any, d_out: jax.Array) -> Any:
    q, k, v, segment, seen_N2, out, normaliser = residuals
    count = q.shape[0]
    wide_out, wide_d = out.astype(jnp.float32), d_out.astype(jnp.float32)
    delta = jnp.sum(wide_out * wide_d, axis=-1)

    def key_block(d_q: jax.Array, s: jax.Array) -> Any:
        def query_block(n: jax.Array, carry: Any) -> Any:
            d_q, d_k, d_v = carry
            weight = jnp.exp(_scores(causal, q, k, segment, n, s) - normaliser[n][..., None])
            d_v += jnp.einsum("bkgqs,bkgqd->bksd", weight.astype(v.dtype), d_out[n], preferred_element_type=jnp.float32)
            d_weight = jnp.einsum("bkgqd,bksd->bkgqs", d_out[n], v[s], preferred_element_type=jnp.float32)
            d_scores = (weight * (d_weight - delta[n][..., None])).astype(q.dtype)
            d_k += jnp.einsum("bkgqs,bkgqd->bksd", d_scores, q[n], preferred_element_type=jnp.float32)
            part = jnp.einsum("bkgqs,bksd->bkgqd", d_scores, k[s], preferred_element_type=jnp.float32)
            return d_q.at[n].add(part), d_k, d_v

        start = (d_q, jnp.zeros(k.shape[1:]), jnp.zeros(v.shape[1:]))
        with expected_trip_count(_trip_count(causal, count)), jax.named_scope(ON_CHIP):
            d_q, d_k, d_v = jax.lax.fori_loop(seen_N2[s, 0], seen_N2[s, 1], query_block, start)
        return d_q, (d_k.astype(k.dtype), d_v.astype(v.dtype))

    d_q, (d_k, d_v) = jax.lax.scan(key_block, jnp.zeros(q.shape), jnp.arange(count))
    return d_q.astype(q.dtype), d_k, d_v, None, None, None


_flash.defvjp(_forward, _backward)
