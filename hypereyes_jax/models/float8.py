"""Linear maps in 8-bit floating point, for training on devices whose matmuls have it (Hopper and later).

Micikevicius et al., arXiv 2209.05433: values and weights in E4M3 (to 448), gradients in E5M2 (to 57,344), each tensor
scaled so that its largest magnitude is the type's largest. The scale is that of the tensor itself, not of steps before
it, so there is no state to keep. Sums are in float32. Elsewhere the same values go through wider matmuls: what it does
to a loss can be seen on a CPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

VALUES, GRADIENTS = jnp.float8_e4m3fn, jnp.float8_e5m2


class Scaled(NamedTuple):
    """A tensor, `values * scale`."""

    values: jax.Array  # in 8 bits
    scale: jax.Array  # float32, 0-d


def in_float8(x: jax.Array, dtype: Any = VALUES) -> Scaled:
    """Rounds to the nearest of the type's numbers, of which the largest stands for the largest magnitude in x."""
    wide = x.astype(jnp.float32)
    limit = float(jnp.finfo(dtype).max)
    largest = jnp.max(jnp.abs(wide))
    scale = jnp.where(largest > 0, largest / limit, 1.0)
    # Divided, the largest may end up a bit above the limit, which E4M3 would turn into NaN.
    return Scaled(jnp.clip(wide / scale, -limit, limit).astype(dtype), scale)


@jax.custom_vjp
def float8_matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., in] times w [in, out], of which both are rounded to 8 bits; the result is in the precision of x.

    So are the gradients: that of the result is rounded, too, and what the rounding changes is taken to be constant.
    """
    return _forward(x, w)[0]


def _forward(x: jax.Array, w: jax.Array) -> Any:
    rounded_x, rounded_w = in_float8(x), in_float8(w)
    # Zero-size arrays keep the types that the gradients are to have.
    return _times(rounded_x, rounded_w, (x.ndim - 1,), (0,)).astype(x.dtype), (rounded_x, rounded_w, x[:0], w[:0])


def _backward(residuals: Any, d_y: jax.Array) -> Any:
    x, w, of_x, of_w = residuals
    d = in_float8(d_y, GRADIENTS)
    d_x = _times(d, w, (d_y.ndim - 1,), (1,)).astype(of_x.dtype)
    rows = tuple(range(d_y.ndim - 1))
    return d_x, _times(x, d, rows, rows).astype(of_w.dtype)


float8_matmul.defvjp(_forward, _backward)


def _times(left: Scaled, right: Scaled, of_left: tuple[int, ...], of_right: tuple[int, ...]) -> jax.Array:
    """float32, summed over these axes."""
    axes = ((of_left, of_right), ((), ()))
    product = jax.lax.dot_general(left.values, right.values, axes, preferred_element_type=jnp.float32)
    return product * (left.scale * right.scale)
