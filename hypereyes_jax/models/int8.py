"""Linear maps in whole numbers of 8 bits, for training on devices whose matmuls have them: TPUs, NVIDIA GPUs.

SwitchBack, arXiv 2304.13013: the map and the gradient of its values are computed in int8, with a scale for each row of
values and each column of weights. The gradient of the weights, a sum over many tokens of which a few are large, stays
in the precision of the values. Scales are those of the arrays at hand, so there is no state to keep; sums are in int32,
and so exact. Elsewhere the same values are computed no faster: what they do to a loss can be seen on a CPU.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hypereyes_jax.models.quantized import Quantized, quantize


@jax.custom_vjp
def int8_matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., in] times w [in, out], of which both are rounded to 8 bits; the result is in the precision of x.

    The gradient of x is that of both rounded, too, w along its other axis; the gradient of w is that of `x @ w`.
    """
    return _forward(x, w)[0]


def _forward(x: jax.Array, w: jax.Array) -> Any:
    return _times(quantize(x, -1), quantize(w, 0), 0).astype(x.dtype), (x, w)


def _backward(residuals: Any, d_y: jax.Array) -> Any:
    x, w = residuals
    d_x = _times(quantize(d_y, -1), quantize(w, 1), 1).astype(x.dtype)
    rows = tuple(range(x.ndim - 1))
    d_w = jax.lax.dot_general(x, d_y, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)
    return d_x, d_w.astype(w.dtype)


int8_matmul.defvjp(_forward, _backward)


def _times(left: Quantized, right: Quantized, axis: int) -> jax.Array:
    """float32: the last axis of `left` is summed over with this one of `right`, a matrix."""
    axes = (((left.values.ndim - 1,), (axis,)), ((), ()))
    product = jax.lax.dot_general(left.values, right.values, axes, preferred_element_type=jnp.int32)
    return product.astype(jnp.float32) * left.scale * right.scale.reshape(-1)
