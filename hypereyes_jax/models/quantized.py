"""Linear maps in int8, for sampling: each output has a scale of its own. `models.int8` trains with the same rounding.

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


class Quantized(struct.PyTreeNode):
    """An array, `values * scale`; for sampling a linear map."""

    values: Leaf  # int8 [..., in, out...]
    scale: Leaf  # float32 [..., 1, out...]

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.values.shape
        return shape


def quantize(array: jax.Array, axis: int) -> Quantized:
    """Rounds to the nearest of 255 steps, of which the largest magnitude along `axis`, that of a map's inputs, is 127.

    What is not finite makes the scale so, and with it all that the scale stands for.
    """
    wide = array.astype(jnp.float32)
    largest = jnp.abs(wide).max(axis, keepdims=True)
    scale = jnp.where(largest == 0, 1.0, largest / _LIMIT)
    return Quantized(jnp.round(wide / scale).astype(jnp.int8), scale)


def product(
    x: jax.Array,
    w: jax.Array | Quantized,
    matmul: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul,
) -> jax.Array:
    """x [..., n, in] times w [..., in, out], in the precision of x."""
    if isinstance(w, Quantized):
        return scaled(matmul(x, w.values.astype(x.dtype)), w.scale)  # whole numbers to 127 are exact in 16 bits
    return matmul(x, w)


def scaled(y: jax.Array, scale: jax.Array) -> jax.Array:
    """Outputs of whole numbers, times their scales."""
    return (y.astype(jnp.float32) * scale).astype(y.dtype)


def flat(w: Any, lead: int) -> Any:
    """A weight, plain or in int8, with all axes after the map's inputs as one; `lead` axes come before the inputs."""
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[: lead + 1], -1), w)
