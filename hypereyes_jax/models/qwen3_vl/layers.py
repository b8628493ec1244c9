"""The small parts: norms, linear maps with an optional adapter, rotary embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.partition import ambient
from hypereyes_jax.models.quantized import flat, product
from hypereyes_jax.models.qwen3_vl.checkpoint_names import ATTENTION_NORMALISER, ATTENTION_OUT, CHOSEN_EXPERTS

Linear = Callable[[str, jax.Array], jax.Array]  # (name of a weight, x [..., in]) -> x @ weight [..., out]


def adapted(
    lora: Lora | None,
    prefix: str,
    w: Mapping[str, Any],
    adapter: Mapping[str, Any],
    key: jax.Array | None,
    matmul: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Linear:
    """Linear maps by name, each with its adapter if it has one.

    Args:
      prefix: path of `w` in the parameter tree.
      w, adapter: weights and adapters of one layer.
      key: turns the adapters' dropout on.
      matmul: of the maps themselves, not of adapters; None = `dense`.
    """

    def linear(name: str, x: jax.Array) -> jax.Array:
        y = product(x, flat(w[name], 0), matmul or dense)
        if lora is None or name not in adapter:
            return y
        return y + lora.delta(f"{prefix}/{name}", adapter[name], x, key, dense)

    return linear


def dense(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., in] @ w [in, out]."""
    if ambient() is not None:
        return x @ w  # merging axes would undo the sharding of all but the first
    # For the weight's gradient of x [B, T, in], XLA's CPU backend transposes all activations: twice the time of a step.
    return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis; statistics in float32."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * scale


def layer_norm(x: jax.Array, w: dict[str, jax.Array], eps: float = 1e-6) -> jax.Array:
    """LayerNorm over the last axis; statistics in float32."""
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * w["scale"] + w["bias"]


def mrope(positions_3BT: jax.Array, head_dim: int, theta: float, section: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """cos and sin [B, T, head_dim / 2], float32, of interleaved M-RoPE.

    Frequency i turns with the height position if i % 3 == 1 and i < 3 * section[1], with the width position if
    i % 3 == 2 and i < 3 * section[2], else with the temporal one.
    """
    half = head_dim // 2
    axis = np.zeros(half, np.int32)
    for which in (1, 2):
        axis[which : 3 * section[which] : 3] = which
    frequency = theta ** (-np.arange(half, dtype=np.float32) / half)
    positions = jnp.moveaxis(positions_3BT, 0, -1)[..., axis].astype(jnp.float32)
    angle = positions * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotary_2d(row_N: jax.Array, col_N: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin [N, head_dim / 2], float32: half the frequencies turn with the row, half with the column."""
    quarter = head_dim // 4
    frequency = theta ** (-np.arange(quarter, dtype=np.float32) / quarter)
    angle = jnp.concatenate([row_N[:, None] * frequency, col_N[:, None] * frequency], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turn x [..., heads, head_dim] by angles [..., head_dim / 2]; dimension i pairs with i + head_dim / 2."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[..., None, :].astype(x.dtype), sin[..., None, :].astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rematerialised(layer: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """A scan's body whose backward pass computes again what it does not keep.

    Args:
      remat: "none" (it keeps all), "dots" (the outputs of weight matmuls), "attention" (what attention gave, and its
        normalisers, where a kernel names them: the scores are then computed twice instead of three times), or "full"
        (it computes everything again). All keep the experts that a layer chose, where it names them.
    """
    names, together = jax.checkpoint_policies.save_only_these_names, jax.checkpoint_policies.save_from_both_policies
    policies = {
        "attention": names(ATTENTION_OUT, ATTENTION_NORMALISER, CHOSEN_EXPERTS),
        "dots": together(jax.checkpoint_policies.dots_with_no_batch_dims_saveable, names(CHOSEN_EXPERTS)),
        "full": names(CHOSEN_EXPERTS),
    }
    if remat == "none":
        return layer
    if remat not in policies:
        raise ValueError(f"remat={remat!r} is not one of none, {', '.join(policies)}")
    return jax.checkpoint(layer, policy=policies[remat], prevent_cse=False)
