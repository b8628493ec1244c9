"""Which blocks of a packed row have a segment in common, for attention kernels that leave out the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def blocks_meet(segment_BT: jax.Array, size: int, other: int) -> jax.Array:
    """bool [B, T / size, T / other]: False where no token of the one block is of a segment of the other block's.

    Segments are compared as ranges of their numbers, which is exact where they grow along a row, and otherwise True too
    often. Padding, of segments 0 and below, meets nothing.
    """

    def ends(size: int) -> tuple[jax.Array, jax.Array]:
        parts = segment_BT.reshape(segment_BT.shape[0], -1, size)
        return jnp.min(jnp.where(parts > 0, parts, jnp.iinfo(jnp.int32).max), axis=-1), jnp.max(parts, axis=-1)

    (low, high), (other_low, other_high) = ends(size), ends(other)
    return (low[:, :, None] <= other_high[:, None]) & (other_low[:, None] <= high[:, :, None])
