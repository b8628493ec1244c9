"""Softmax attention within segments.

Axis letters: B rows, T queries, S keys, H query heads, K key heads, D values a head. Query head h reads key head
h // (H / K), so keys are never repeated. Scores and softmax are in float32.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.models.partition import dividing, local
from hypereyes_jax.models.qwen3_vl.checkpoint_names import ATTENTION_OUT
from hypereyes_jax.models.qwen3_vl.flash import flash_attention
from hypereyes_jax.models.qwen3_vl.kernels import Kernels
from hypereyes_jax.models.qwen3_vl.row_attention import query_blocks, row_attention
from hypereyes_jax.models.qwen3_vl.segment_blocks import blocks_meet
from hypereyes_jax.models.qwen3_vl.triton_attention import triton_attention
from hypereyes_jax.models.trip_counts import expected_trip_count

# Scores where attention may not look. Finite, so that a row of nothing but padding gives an average, not NaN.
_MASKED = -1e30
_LANES = 128  # of a TPU's vector registers
_SPLASH_BLOCK = 512  # the kernel's own default of 128 is too little work a step of its grid
# Of a block of keys. Backward, 4,096 do not fit the fast memory of a v5p, and each block holds a part of the queries'
# gradient, so that few, long ones take less memory.
_SPLASH_KEYS = (3072, 2560, 2048)
_NONE = 2**30  # no block


class SegmentAttention(Protocol):
    """Attention over packed rows, within segments."""

    def __call__(
        self, q_BTHD: jax.Array, k_BTKD: jax.Array, v_BTKD: jax.Array, segment_BT: jax.Array, /, *, causal: bool
    ) -> jax.Array:
        """[B, T, H * D]: each token attends to those of its own segment (and, if causal, not to later ones)."""


def segment_attention_for(kernels: Kernels) -> SegmentAttention:
    """The implementation `kernels` names. On a mesh each device computes its own sequences and heads."""
    implementations: dict[str, SegmentAttention] = {
        "xla": segment_attention,
        "flash": flash_attention,
        "triton": triton_attention,
        "splash": splash_attention,
        "cudnn": cudnn_attention,
    }
    implementation = implementations.get(kernels.attention)
    if implementation is None:
        raise ValueError(f"attention={kernels.attention!r} is not one of {', '.join(implementations)}")

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array, *, causal: bool) -> jax.Array:
        (rows,) = dividing(segment.shape[:1], ("batch",))
        heads, kv_heads = (rows, None, "heads", None), (rows, None, "kv_heads", None)
        own = local(partial(implementation, causal=causal), (heads, kv_heads, kv_heads, (rows, None)), heads[:3])
        return own(q, k, v, segment)

    return attend


@partial(jax.jit, static_argnames="causal")  # traced once for all layers
def segment_attention(
    q_BTHD: jax.Array, k_BTKD: jax.Array, v_BTKD: jax.Array, segment_BT: jax.Array, *, causal: bool
) -> jax.Array:
    """[B, T, H * D]: each token attends to those of its own segment (and, if causal, not to later ones).

    Queries go in blocks that see no key beyond their own last one, which saves almost half of causal attention, and
    scores are computed again in the backward pass, which is cheaper than to write and read them. A CPU takes row after
    row: the scores of one stay in its cache.
    """

    def rows(q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array) -> jax.Array:
        length = q.shape[1]
        out = []
        for start, stop in query_blocks(length):
            end = stop if causal else length
            mask = segment[:, start:stop, None] == segment[:, None, :end]
            if causal:
                mask &= jnp.arange(start, stop)[:, None] >= jnp.arange(end)
            out.append(masked_attention(q[:, start:stop], k[:, :end], v[:, :end], mask))
        return jnp.concatenate(out, axis=1)

    rows = jax.checkpoint(rows)

    def one_by_one(*arrays: jax.Array) -> jax.Array:
        return jax.lax.map(lambda row: row_attention(*row, causal), arrays)

    return jax.lax.platform_dependent(q_BTHD, k_BTKD, v_BTKD, segment_BT, cpu=one_by_one, default=rows)


def cudnn_attention(
    q_BTHD: jax.Array, k_BTKD: jax.Array, v_BTKD: jax.Array, segment_BT: jax.Array, *, causal: bool
) -> jax.Array:
    """[B, T, H * D]: as `segment_attention`, by cuDNN's fused kernel (NVIDIA GPUs, float16 or bfloat16)."""
    batch, length, heads, size = q_BTHD.shape
    mask = segment_BT[:, None, :, None] == segment_BT[:, None, None, :]
    out = jax.nn.dot_product_attention(q_BTHD, k_BTKD, v_BTKD, mask=mask, is_causal=causal, implementation="cudnn")
    return out.reshape(batch, length, heads * size)


def splash_attention(
    q_BTHD: jax.Array, k_BTKD: jax.Array, v_BTKD: jax.Array, segment_BT: jax.Array, *, causal: bool
) -> jax.Array:
    """[B, T, H * D]: as `segment_attention`, by the Pallas splash kernel (TPU).

    Tokens are padded to the kernel's blocks in a segment of their own, heads to its lane width of 128 with zeros.
    """
    # Pallas takes half a second to import, and only TPU programs need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

    length, heads, size = q_BTHD.shape[1:]
    block = min(_SPLASH_BLOCK, -(-length // _LANES) * _LANES)
    long = block if length <= _SPLASH_KEYS[0] else _key_block(length)
    full_length, lanes = -(-length // long) * long, -(-size // _LANES) * _LANES
    pad = ((0, 0), (0, full_length - length), (0, 0), (0, lanes - size))
    q, k, v = (jnp.pad(x, pad).transpose(0, 2, 1, 3) for x in (q_BTHD * size**-0.5, k_BTKD, v_BTKD))
    segment = jnp.pad(segment_BT, ((0, 0), (0, full_length - length)), constant_values=-1)
    shape = (full_length, full_length)
    head_mask = splash_mask.CausalMask(shape) if causal else splash_mask.FullMask(shape)
    kernel = splash_kernel.make_splash_mha(
        splash_mask.MultiHeadMask([head_mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash_kernel.BlockSizes(
            block_q=block, block_kv=long, block_kv_compute=block,
            block_q_dkv=block, block_kv_dkv=long, block_kv_dkv_compute=block, use_fused_bwd_kernel=True,
        ),
        residual_checkpoint_name=ATTENTION_OUT,
    )  # fmt: skip
    blocks = full_length // block
    met = (
        sum(-(-(number + 1) * block // long) for number in range(blocks)) if causal else blocks * (full_length // long)
    )

    def row(arrays: tuple[jax.Array, ...]) -> jax.Array:
        q, k, v, segment = arrays
        if causal:
            kernel.fwd_mask_info = _only_met(fwd_mask, segment, block, long, axis=1)
            kernel.dkv_mask_info = _only_met(dkv_mask, segment, block, long, axis=0)
        with expected_trip_count(heads * met):
            return kernel(q, k, v, segment_ids=splash_kernel.SegmentIds(segment, segment))

    fwd_mask, dkv_mask = kernel.fwd_mask_info, kernel.dkv_mask_info
    out = row((q[0], k[0], v[0], segment[0]))[None] if q.shape[0] == 1 else jax.lax.map(row, (q, k, v, segment))
    return out.transpose(0, 2, 1, 3)[:, :length, :, :size].reshape(-1, length, heads * size)


def _key_block(length: int) -> int:
    """The block of keys with which causal attention over a row computes the fewest scores; the longest of equals."""

    def scores(keys: int) -> int:
        full_length = -(-length // keys) * keys
        return (
            sum(-(-end // keys) * keys for end in range(_SPLASH_BLOCK, full_length + 1, _SPLASH_BLOCK)) * _SPLASH_BLOCK
        )

    return min(_SPLASH_KEYS, key=scores)


def _only_met(info: Any, segment_T: jax.Array, block_q: int, block_k: int, axis: int) -> Any:
    """A causal splash mask without the blocks that have no segment in common.

    A block of padding alone meets itself: for queries that met nothing, the kernel would make NaN.

    Args:
      axis: along which the kernel goes from block to block; it fetches the next one that it will compute.
    """
    meets_QS = blocks_meet(segment_T[None], block_q, block_k)[0]
    own = np.arange(meets_QS.shape[0])[:, None] * block_q // block_k == np.arange(meets_QS.shape[1])
    block_mask = jnp.where(meets_QS | own, info.block_mask, 0)
    place = jax.lax.broadcasted_iota(jnp.int32, block_mask.shape, axis + 1)
    following = jax.lax.cummin(jnp.where(block_mask > 0, place, _NONE), axis=axis + 1, reverse=True)
    following = jnp.where(following == _NONE, 0, following)
    return info._replace(block_mask=block_mask, data_next=following.astype(info.data_next.dtype))


def masked_attention(q_BTHD: jax.Array, k_BSKD: jax.Array, v_BSKD: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """[B, T, H * D]: attention where the mask is True."""
    batch, length, heads, size = q_BTHD.shape
    span, kv_heads = k_BSKD.shape[1:3]
    group = heads // kv_heads
    # The queries of one key head become rows of one matmul.
    q = (q_BTHD * size**-0.5).reshape(batch, length, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * length, size)
    scores = jnp.matmul(q, k_BSKD.transpose(0, 2, 3, 1), preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, group, length, span)
    scores = jnp.where(mask_BTS[:, None, None], scores, _MASKED)
    weight = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weight, axis=-1)
    weight = weight.reshape(batch, kv_heads, group * length, span).astype(v_BSKD.dtype)
    out = jnp.matmul(weight, v_BSKD.transpose(0, 2, 1, 3), preferred_element_type=jnp.float32)
    out = out.reshape(batch, kv_heads, group, length, size) / total[..., None]
    return out.astype(q_BTHD.dtype).transpose(0, 3, 1, 2, 4).reshape(batch, length, heads * size)
