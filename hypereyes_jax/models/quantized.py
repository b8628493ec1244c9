"""Linear maps in int8, for sampling only: each output has a scale of its own.

Decoding reads every weight for a handful of tokens, so half the bytes is nearly half the time. What rounding changes is
measured where it matters: `sampler_gap` compares the sampler's log-probs with the learner's, and truncated importance
sampling bounds what it weighs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

_LIMIT = 127.0
Leaf = Any  # an array, a tracer, a shape; or where it lies


class QuantizedWeight(struct.PyTreeNode):
    """A linear map, `values * scale`."""

    values: Leaf  # int8 [..., in, out...]
    scale: Leaf  # float32 [..., 1, out...]

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.values.shape
        return shape


def quantize(weight: jax.Array, axis: int) -> QuantizedWeight:
    """Rounds to the nearest of 255 steps, of which the largest magnitude along `axis`, the map's inputs, is 127."""
    wide = weight.astype(jnp.float32)
    largest = jnp.abs(wide).max(axis, keepdims=True)
    scale = jnp.where(largest > 0, largest / _LIMIT, 1.0)
    return QuantizedWeight(jnp.round(wide / scale).astype(jnp.int8), scale)


def product(
    x: jax.Array,
    w: jax.Array | QuantizedWeight,
    matmul: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul,
) -> jax.Array:
    """x [..., n, in] times w [..., in, out], in the precision of x."""
    if isinstance(w, QuantizedWeight):
        return scaled(matmul(x, w.values.astype(x.dtype)), w.scale)  # whole numbers to 127 are exact in 16 bits
    return matmul(x, w)


def scaled(y: jax.Array, scale: jax.Array) -> jax.Array:
    """Outputs of whole numbers, times their scales."""
    return (y.astype(jnp.float32) * scale).astype(y.dtype)


def flat(w: Any, lead: int) -> Any:
    """A weight, plain or in int8, with all axes after the map's inputs as one; `lead` axes come before the inputs."""
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[: lead + 1], -1), w)
