"""The vision tower: patches in rows to visual tokens, and the features DeepStack adds to the first decoder layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hypereyes_jax.configs.model import Qwen3VLConfig, VisionConfig
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.partition import constrain, take_local
from hypereyes_jax.models.qwen3_vl.attention import segment_attention_for
from hypereyes_jax.models.qwen3_vl.kernels import Kernels
from hypereyes_jax.models.qwen3_vl.layers import Linear, adapted, layer_norm, rematerialised, rotary_2d, rotate
from hypereyes_jax.models.qwen3_vl.weights import Params
from hypereyes_jax.processing.types import VisionInputs


class VisualFeatures(struct.PyTreeNode):
    """What the decoder takes from the tower, visual tokens in the order of their image tokens."""

    embeds: jax.Array  # [M, D], replace the embeddings of image tokens
    deepstack: jax.Array  # [taps, M, D], added to their hidden states after decoder layer 0, 1, ...


def encode_images(
    params: Params,
    config: Qwen3VLConfig,
    vision: VisionInputs,
    lora: Lora | None = None,
    *,
    remat: str = "none",
    dropout_key: jax.Array | None = None,
    kernels: Kernels = Kernels(),
) -> VisualFeatures:
    """Run the vision tower. Rows past the last visual token hold another's features; nothing refers to them.

    Args:
      remat: as in `text.decode_layers`, for each block.
    """
    w, c = params["vision"], config.vision
    dtype = w["patch_w"].dtype
    rows, length = vision.segment_RL.shape
    x = _normalised(jnp.asarray(vision.patches_NP), dtype) @ w["patch_w"] + w["patch_b"]
    position = jnp.einsum(
        "nkd,nk->nd",
        constrain(w["pos"], None, None)[jnp.asarray(vision.pos_index_N4)],
        jnp.asarray(vision.pos_weight_N4, dtype),
    )
    x = constrain((x + position).reshape(rows, length, -1), "batch", "length", None)
    cos, sin = rotary_2d(jnp.asarray(vision.row_N), jnp.asarray(vision.col_N), c.head_dim, c.rope_theta)
    cos, sin = cos.reshape(rows, length, -1), sin.reshape(rows, length, -1)
    segment = jnp.asarray(vision.segment_RL)

    # Merging keeps no state between layers, so each DeepStack tap is kept as hidden states and merged after the scan:
    # one compiled block serves every layer, tapped or not.
    taps = jnp.array(c.deepstack_visual_indexes, jnp.int32)

    attend = segment_attention_for(kernels)

    def block(carry: tuple[jax.Array, jax.Array], xs: Any) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, tapped = carry
        weights, adapter, index = xs
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
        x = _block(weights, c, adapted(lora, "vision/blocks", weights, adapter, key), attend, x, cos, sin, segment)
        if taps.size:
            tapped = jnp.where((taps == index)[:, None, None, None], x, tapped)
        return (constrain(x, "batch", "length", None), tapped), None

    tapped = jnp.zeros((taps.size, *x.shape), x.dtype)
    adapters = lora.weights.get("vision", {}) if lora is not None else {}
    xs = (w["blocks"], adapters.get("blocks", {}), jnp.arange(c.depth))
    (x, tapped), _ = jax.lax.scan(rematerialised(block, remat), (x, tapped), xs)
    place = jnp.asarray(vision.token_place_M)
    merger = adapted(lora, "vision/merger", w["merger"], adapters.get("merger", {}), dropout_key)
    embeds = take_local(_merge(w["merger"], c, merger, x, per_patch_norm=True), place)
    if not taps.size:
        return VisualFeatures(embeds, jnp.zeros((0, *embeds.shape), embeds.dtype))

    def merge_tap(w: Params, adapter: Any, key: jax.Array | None, x: jax.Array) -> jax.Array:
        return _merge(w, c, adapted(lora, "vision/deepstack", w, adapter, key), x, per_patch_norm=False)

    keys = None if dropout_key is None else jax.random.split(dropout_key, taps.size)
    features = jax.vmap(merge_tap)(w["deepstack"], adapters.get("deepstack", {}), keys, tapped)
    # The decoder takes features in the order of the tower's layers, however the config lists them.
    order = np.argsort(c.deepstack_visual_indexes)
    return VisualFeatures(embeds, jnp.stack([take_local(features[i], place) for i in order]))


def _block(
    w: Params,
    c: VisionConfig,
    linear: Linear,
    attend: Callable[..., Any],
    x: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    segment: jax.Array,
) -> jax.Array:
    rows, length, wide = x.shape
    h = layer_norm(x, w["norm1"])
    qkv = (linear("qkv_w", h).reshape(rows, length, 3 * wide) + w["qkv_b"].reshape(3 * wide)).reshape(
        rows, length, 3, c.num_heads, -1
    )
    q, k = rotate(qkv[:, :, 0], cos, sin), rotate(qkv[:, :, 1], cos, sin)
    # the bias joins the map's output first: in bfloat16 the sum with x is rounded once, as in transformers
    x = x + (linear("proj_w", attend(q, k, qkv[:, :, 2], segment, causal=False)) + w["proj_b"])
    h = jax.nn.gelu(linear("fc1_w", layer_norm(x, w["norm2"])) + w["fc1_b"], approximate=True)
    return x + (linear("fc2_w", h) + w["fc2_b"])


def _merge(w: Params, c: VisionConfig, linear: Linear, x: jax.Array, *, per_patch_norm: bool) -> jax.Array:
    """[R, L, Dv] to [M, D]: each merge block of consecutive patches becomes one token."""
    blocks = x.reshape(-1, c.merge_unit * c.hidden_size)
    h = layer_norm(x, w["norm"]).reshape(blocks.shape) if per_patch_norm else layer_norm(blocks, w["norm"])
    # exact GELU here, its tanh approximation in the blocks
    h = jax.nn.gelu(linear("fc1_w", h) + w["fc1_b"], approximate=False)
    return constrain(linear("fc2_w", h) + w["fc2_b"], "batch", None)


def _normalised(patches_NP: jax.Array, dtype: Any) -> jax.Array:
    """Patches in the tower's precision; values of an image, uint8, mapped to [-1, 1] as `processing.images` does."""
    if patches_NP.dtype != jnp.uint8:
        return patches_NP.astype(dtype)
    # Without the barrier a compiler may map all micro-batches' patches before the loop over them, and hold both.
    values = jax.lax.optimization_barrier(patches_NP).astype(jnp.float32)
    return ((values / 255 - 0.5) / 0.5).astype(dtype)
