"""Experts with adapters in Triton kernels, for GPUs: the grouped matmuls one by one, each with its gradient.

An adapter of an expert reads its input after dropout and adds to the map beside it, so the fused kernels of
`triton_experts` don't apply: rows of assignments are arrays of their own here, for a chunk of tokens at a time, and the
backward pass computes a chunk again. What assignments to experts of other devices hold in these arrays is never read.
Axis letters as in `triton_grouped`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hypereyes_jax.models.quantized import Quantized
from hypereyes_jax.models.qwen3_vl.triton_experts import cut
from hypereyes_jax.models.qwen3_vl.triton_grouped import (
    End,
    ExpertSchedule,
    Factor,
    Form,
    combine,
    grouped_matmul,
    keep,
    schedule_experts,
    weight_gradient,
)
from hypereyes_jax.models.triton import on_platform

_CHUNK = 1 << 17  # assignments at once: half a GiB of 16-bit values 2,048 wide, of which about six are held
FeedForward = Callable[[jax.Array, Any, Callable[..., jax.Array]], jax.Array]  # (rows [A, D], dropout key, matmul)


def adapted_experts(
    feed_forward: FeedForward,
    frozen: tuple[Any, ...],
    x_ND: jax.Array,
    gate_NK: jax.Array,
    expert_NK: jax.Array,
    count: int,
    dropout_key: jax.Array | None,
    share: float,
) -> jax.Array:
    """[N, D]: sum over a token's experts of gate * feed_forward(x). Ids outside of 0 .. count - 1 add nothing.

    Args:
      feed_forward: an expert on the rows of its assignments; `matmul(rows, weights [E, in, out])` takes each row to its
        expert's matrix.
      frozen: those of the weights that get no gradient.
      dropout_key: folded with the number of the chunk.
      share: of the assignments that are expected to be of these experts. It changes no result.
    """
    form, parts = cut((x_ND, gate_NK, expert_NK), count, share, _CHUNK)

    @jax.checkpoint
    def chunk(number: jax.Array, x_ND: jax.Array, gate_NK: jax.Array, expert_NK: jax.Array) -> jax.Array:
        schedule = schedule_experts(expert_NK, count, form.rows)
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, number)

        def matmul(rows_AD: jax.Array, weights_EDF: Any) -> jax.Array:
            trains = not any(weights_EDF is each for each in frozen)
            return _matmul(form, trains, schedule, rows_AD, weights_EDF)

        rows_AD = _to_assignments(form, schedule, gate_NK.shape[1], x_ND)
        return _to_tokens(form, schedule, feed_forward(rows_AD, key, matmul), gate_NK)

    numbers = jnp.arange(parts[0].shape[0])
    return jax.lax.map(lambda each: chunk(*each), (numbers, *parts)).reshape(x_ND.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _matmul(form: Form, trains: bool, schedule: ExpertSchedule, x_AD: jax.Array, w_EDF: Any) -> jax.Array:
    return _matmul_forward(form, trains, schedule, x_AD, w_EDF)[0]


def _matmul_forward(form: Form, trains: bool, schedule: ExpertSchedule, x_AD: jax.Array, w_EDF: Any) -> Any:
    return _product(form, False, schedule, x_AD, w_EDF), (schedule, x_AD, w_EDF)


def _matmul_backward(form: Form, trains: bool, residuals: Any, d_AF: jax.Array) -> Any:
    schedule, x_AD, w_EDF = residuals
    if isinstance(w_EDF, Quantized):
        raise TypeError("weights in int8 are for sampling: they have no gradient")
    d_x_AD = _product(form, True, schedule, d_AF, w_EDF)
    if not trains:
        return None, d_x_AD, None

    def run(schedule: ExpertSchedule, x_AD: Any, d_AF: Any, *, interpret: bool) -> jax.Array:
        total_EDF = jnp.zeros(w_EDF.shape, jnp.float32)
        return weight_gradient(form, schedule, x_AD, d_AF, total_EDF, interpret=interpret)

    return None, d_x_AD, on_platform(run, schedule, x_AD, d_AF).astype(w_EDF.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _product(form: Form, turned: bool, schedule: ExpertSchedule, x_AD: jax.Array, w_EDF: Any) -> jax.Array:
    """Rows times their experts' matrices, or the transposed ones."""
    columns = w_EDF.shape[1 if turned else 2]

    def run(schedule: ExpertSchedule, x_AD: Any, w_EDF: Any, *, interpret: bool) -> jax.Array:
        end = End(keep, [jax.ShapeDtypeStruct((x_AD.shape[0], columns), x_AD.dtype)])
        factor = Factor(w_EDF, columns, turned=turned)
        name = "experts_adapted_back" if turned else "experts_adapted"
        return grouped_matmul(form, schedule, x_AD, factor, end, interpret=interpret, name=name)[0]

    return on_platform(run, schedule, x_AD, w_EDF)


@partial(jax.custom_vjp, nondiff_argnums=(0, 2))
def _to_assignments(form: Form, schedule: ExpertSchedule, each: int, x_ND: jax.Array) -> jax.Array:
    """[A, D]: the tokens of assignments, in their order."""
    return x_ND[schedule.order_A // each]


def _to_assignments_forward(form: Form, schedule: ExpertSchedule, each: int, x_ND: jax.Array) -> Any:
    return _to_assignments(form, schedule, each, x_ND), (schedule, x_ND.shape[0])


def _to_assignments_backward(form: Form, each: int, residuals: Any, d_AD: jax.Array) -> Any:
    schedule, tokens = residuals
    return None, _sum(form, schedule, d_AD, jnp.ones((tokens, each), d_AD.dtype))


_to_assignments.defvjp(_to_assignments_forward, _to_assignments_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _to_tokens(form: Form, schedule: ExpertSchedule, y_AD: jax.Array, gate_NK: jax.Array) -> jax.Array:
    """[N, D]: sum over a token's experts that are here of gate * y."""
    return _sum(form, schedule, y_AD, gate_NK)


def _to_tokens_forward(form: Form, schedule: ExpertSchedule, y_AD: jax.Array, gate_NK: jax.Array) -> Any:
    return _to_tokens(form, schedule, y_AD, gate_NK), (schedule, y_AD, gate_NK)


def _to_tokens_backward(form: Form, residuals: Any, d_ND: jax.Array) -> Any:
    schedule, y_AD, gate_NK = residuals
    d_AD = d_ND[schedule.order_A // gate_NK.shape[1]]
    d_y_AD = d_AD * gate_NK.reshape(-1)[schedule.order_A][:, None]
    d_gate_A = jnp.sum(d_AD.astype(jnp.float32) * y_AD.astype(jnp.float32), axis=-1)
    here_A = schedule.place_A < jnp.sum(schedule.size_E)
    d_gate_NK = jnp.where(here_A, d_gate_A[schedule.place_A], 0).reshape(gate_NK.shape)
    return None, d_y_AD, d_gate_NK.astype(gate_NK.dtype)


_to_tokens.defvjp(_to_tokens_forward, _to_tokens_backward)


def _sum(form: Form, schedule: ExpertSchedule, y_AD: jax.Array, gate_NK: jax.Array) -> jax.Array:
    def run(schedule: ExpertSchedule, y_AD: Any, gate_NK: Any, *, interpret: bool) -> jax.Array:
        return combine(form, schedule, y_AD, gate_NK, gate_NK.shape[0], interpret=interpret)

    return on_platform(run, schedule, y_AD, gate_NK)
