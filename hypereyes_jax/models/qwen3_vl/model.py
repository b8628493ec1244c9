"""Qwen3-VL as pure functions on a nested dict of arrays: whole batches, and incremental decoding."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.qwen3_vl.attention import cached_attention, segment_attention_for
from hypereyes_jax.models.qwen3_vl.kernels import Kernels
from hypereyes_jax.models.qwen3_vl.moe import RouterLoad
from hypereyes_jax.models.qwen3_vl.text import decode_layers, embed_tokens
from hypereyes_jax.models.qwen3_vl.vision import VisualFeatures, encode_images
from hypereyes_jax.models.qwen3_vl.weights import Params
from hypereyes_jax.processing.types import ModelInputs


class KVCache(NamedTuple):
    """Keys (rotated) and values of every slot."""

    k: jax.Array  # [layers, slots, length, kv_heads, head_dim]
    v: jax.Array


def lm_head(params: Params, config: Qwen3VLConfig) -> jax.Array:
    """[D, V], of the parameters' dtype; the embedding itself where they are tied."""
    return params["embed"].T if config.text.tie_word_embeddings else params["head"]


def hidden_states(
    params: Params,
    config: Qwen3VLConfig,
    inputs: ModelInputs,
    lora: Lora | None = None,
    *,
    remat: str = "none",
    dropout_key: jax.Array | None = None,
    kernels: Kernels = Kernels(),
) -> jax.Array:
    """[B, T, D] after the final norm. Tokens attend to earlier ones of their own segment; padding rows are meaningless.

    Args:
      inputs: see `hypereyes_jax.processing.pack_inputs`.
      lora: adapters added to the linear maps they name.
      remat: what the backward pass keeps: "none" (everything), "dots", "full" (least).
      dropout_key: turns the adapters' dropout on.
      kernels: implementations for the platform; static.
    """
    x, _ = hidden_states_and_load(params, config, inputs, lora, remat=remat, dropout_key=dropout_key, kernels=kernels)
    return x


def hidden_states_and_load(
    params: Params,
    config: Qwen3VLConfig,
    inputs: ModelInputs,
    lora: Lora | None = None,
    *,
    remat: str = "none",
    dropout_key: jax.Array | None = None,
    kernels: Kernels = Kernels(),
) -> tuple[jax.Array, RouterLoad | None]:
    """As `hidden_states`, with what `moe.load_balancing_loss` takes (None for a dense model)."""
    visual = None
    if inputs.vision.segment_RL.shape[0]:
        visual = encode_images(
            params, config, inputs.vision, lora, remat=remat, dropout_key=dropout_key, kernels=kernels
        )
    segment, index = jnp.asarray(inputs.segment_BT), jnp.asarray(inputs.visual_index_BT)
    x = embed_tokens(params, jnp.asarray(inputs.tokens_BT), index, visual)
    attend = segment_attention_for(kernels)
    x, _, load = decode_layers(
        params,
        config,
        x,
        jnp.asarray(inputs.positions_3BT),
        index,
        visual,
        segment > 0,
        lambda q, k, v, _: (attend(q, k, v, segment, causal=True), None),
        None,
        lora=lora,
        remat=remat,
        dropout_key=dropout_key,
        kernels=kernels,
    )
    return x, load


def forward(
    params: Params,
    config: Qwen3VLConfig,
    inputs: ModelInputs,
    lora: Lora | None = None,
    *,
    kernels: Kernels = Kernels(),
) -> jax.Array:
    """Logits [B, T, V]."""
    return hidden_states(params, config, inputs, lora, kernels=kernels) @ lm_head(params, config)


def init_cache(config: Qwen3VLConfig, slots: int, length: int, dtype: Any = jnp.float32) -> KVCache:
    """An empty cache for `slots` sequences of at most `length` tokens."""
    text = config.text
    shape = (text.num_hidden_layers, slots, length, text.num_key_value_heads, text.head_dim)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def extend(
    params: Params,
    config: Qwen3VLConfig,
    tokens_ST: jax.Array,
    positions_3ST: jax.Array,
    visual_index_ST: jax.Array,
    visual: VisualFeatures | None,
    cache: KVCache,
    offset_S: jax.Array,
    length_S: jax.Array,
    lora: Lora | None = None,
    *,
    kernels: Kernels = Kernels(),
) -> tuple[jax.Array, KVCache]:
    """Continue every slot's sequence: (hidden states [S, T, D], the cache with the new tokens written).

    Row i holds `length_S[i]` new tokens (0 = a parked slot: its cache stays as it is) for cache positions
    `offset_S[i]` ..., and attends to all before them. What lies in the cache past that is never read. Hidden states of
    rows past `length_S[i]` are meaningless. T = 1 is a decode step. The cache may be any subset of slots, or a view of
    the first positions only, as long as offset + length fits; donate it and it is updated in place.

    Args:
      visual: features that `visual_index_ST` counts in; None if no row has an image.
    """
    slots, length = tokens_ST.shape
    span = cache.k.shape[2]
    step = jnp.arange(length)
    # Out-of-range rows are dropped by the scatter below.
    place_ST = jnp.where(step < length_S[:, None], offset_S[:, None] + step, span)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, own: KVCache) -> tuple[jax.Array, KVCache]:
        stored = KVCache(k.astype(own.k.dtype), v.astype(own.v.dtype))
        return cached_attention(q, stored.k.astype(q.dtype), stored.v.astype(q.dtype), *own, offset_S), stored

    x = embed_tokens(params, tokens_ST, visual_index_ST, visual)
    x, new, _ = decode_layers(
        params,
        config,
        x,
        positions_3ST,
        visual_index_ST,
        visual,
        step < length_S[:, None],
        attend,
        cache,
        lora=lora,
        kernels=kernels,
    )
    slot = jnp.arange(slots)[:, None]
    written = KVCache(
        *(old.at[:, slot, place_ST].set(fresh, mode="drop") for old, fresh in zip(cache, new, strict=True))
    )
    return x, written
