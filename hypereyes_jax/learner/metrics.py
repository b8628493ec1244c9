"""Figures of a step, summed over its micro-batches before they are divided."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct


class Mean(struct.PyTreeNode):
    """A mean that is still in two parts, so that those of micro-batches add up. Both are float32 scalars."""

    sum: jax.Array
    n: jax.Array  # 0 = the sum itself is the figure

    @property
    def value(self) -> jax.Array:
        """The mean; 0 of nothing."""
        return self.sum / jnp.maximum(self.n, 1.0)


Metrics = dict[str, Mean]


def mean(values: jax.Array, mask: jax.Array) -> Mean:
    """The mean of the values where the mask holds. What lies elsewhere may be anything, NaN included."""
    return Mean(jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask).astype(jnp.float32))


def total(value: jax.Array) -> Mean:
    """A sum that is to stay one."""
    return Mean(jnp.asarray(value, jnp.float32), jnp.float32(0))
