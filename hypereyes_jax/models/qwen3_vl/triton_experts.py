"""Experts as grouped matmuls in Triton kernels, for GPUs: gathering, gating and adding up happen inside of them.

Nothing is dropped, however unevenly the router spreads the tokens, and assignments to experts of other devices cost
nothing but the room that arrays keep for the worst case. Tokens go in chunks that bound this room. The backward pass
computes gate and up again. Axis letters: N tokens, D model width, E experts, F expert width, K experts a token,
A = N * K assignments (sorted by expert), M chunks of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from hypereyes_jax.models.quantized import Quantized
from hypereyes_jax.models.qwen3_vl.triton_grouped import (
    MOST_ROWS,
    Block,
    End,
    ExpertSchedule,
    Factor,
    Form,
    block_width,
    combine,
    grouped_matmul,
    keep,
    schedule_experts,
    weight_gradient,
)
from hypereyes_jax.models.triton import LEAST, on_platform

_CHUNK = 1 << 19  # assignments at once: 2 GiB of 16-bit values 2,048 wide


def grouped_experts(
    gate_up_EDF: jax.Array | Quantized,
    down_EFD: jax.Array | Quantized,
    x_ND: jax.Array,
    gate_NK: jax.Array,
    expert_NK: jax.Array,
    share: float,
) -> jax.Array:
    """[N, D]: sum over a token's experts of gate * down(silu(gate of x) * up of x).

    Differentiable in the weights, x and gate, unless the weights are in int8. Ids outside of 0 .. E - 1 add nothing.

    Args:
      gate_up_EDF: [E, D, 2 F], the gates' columns before the ups'.
      share: of the assignments that are expected to be of these experts. It changes no result.
    """
    form, parts = cut((x_ND, gate_NK, expert_NK), down_EFD.shape[0], share, _CHUNK)
    return _run(form, gate_up_EDF, down_EFD, *parts).reshape(x_ND.shape)


def cut(of_tokens: Sequence[jax.Array], count: int, share: float, most: int) -> tuple[Form, list[jax.Array]]:
    """The form of the kernels, and arrays [N, ...] as [M, N / M, ...]: chunks of at most `most` assignments.

    The last array holds the tokens' experts, of which `count` are here. Raises ValueError for too many tokens.
    """
    tokens, each = of_tokens[-1].shape
    least = -(-tokens * each // most)
    chunks = next(n for n in range(least, tokens + 1) if tokens % n == 0)
    usual = max(1, int(tokens // chunks * each * share / count))
    rows = min(MOST_ROWS, max(LEAST, int(pl.next_power_of_2(usual))))
    if (count + 1) * (tokens // chunks) * each > np.iinfo(np.int32).max:
        raise ValueError(f"{tokens} tokens to {count} experts are too many for one device: use a smaller batch")
    return Form(rows, share), [x.reshape(chunks, tokens // chunks, *x.shape[1:]) for x in of_tokens]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(form: Form, gate_up: Any, down: Any, x_MND: Any, gate_MNK: Any, expert_MNK: Any) -> jax.Array:
    return _forward(form, gate_up, down, x_MND, gate_MNK, expert_MNK)[0]


def _forward(form: Form, gate_up: Any, down: Any, x_MND: Any, gate_MNK: Any, expert_MNK: Any) -> Any:
    def chunk(parts: Any) -> jax.Array:
        x_ND, gate_NK, expert_NK = parts
        schedule = schedule_experts(expert_NK, down.shape[0], form.rows)
        return on_platform(partial(_chunk_forward, form), gate_up, down, x_ND, gate_NK, schedule)

    out = jax.lax.map(chunk, (x_MND, gate_MNK, expert_MNK))
    return out, (gate_up, down, x_MND, gate_MNK, expert_MNK)


def _backward(form: Form, residuals: Any, d_out_MND: jax.Array) -> Any:
    gate_up, down, *parts = residuals
    if isinstance(gate_up, Quantized) or isinstance(down, Quantized):
        raise TypeError("weights in int8 are for sampling: they have no gradient")

    def chunk(sums: Any, parts: Any) -> Any:
        x_ND, gate_NK, expert_NK, d_out_ND = parts
        schedule = schedule_experts(expert_NK, down.shape[0], form.rows)
        arrays = (gate_up, down, x_ND, gate_NK, d_out_ND, schedule, sums)
        d_x_ND, d_gate_A, sums = on_platform(partial(_chunk_backward, form), *arrays)
        here_A = schedule.place_A < jnp.sum(schedule.size_E)
        d_gate_A = jnp.where(here_A, d_gate_A[schedule.place_A], 0).reshape(gate_NK.shape)
        return sums, (d_x_ND, d_gate_A.astype(gate_NK.dtype))

    # An expert adds up many blocks: in float32, whatever the weights are in.
    start = (jnp.zeros(gate_up.shape, jnp.float32), jnp.zeros(down.shape, jnp.float32))
    (d_gate_up, d_down), (d_x, d_gate) = jax.lax.scan(chunk, start, (*parts, d_out_MND))
    no_gradient = np.zeros(parts[2].shape, jax.dtypes.float0)
    return d_gate_up.astype(gate_up.dtype), d_down.astype(down.dtype), d_x, d_gate, no_gradient


_run.defvjp(_forward, _backward)


def _chunk_forward(
    form: Form, gate_up: Any, down: Any, x_ND: Any, gate_NK: Any, schedule: ExpertSchedule, *, interpret: bool
) -> jax.Array:
    inner = down.shape[1]

    def activate(parts: Any, block: Block, act_ref: Any) -> None:
        gate, up = parts
        block.store(act_ref, jax.nn.silu(gate) * up)

    size, dtype = schedule.order_A.size, x_ND.dtype
    act_AF = grouped_matmul(
        form, schedule, x_ND, Factor(gate_up, inner, (0, inner)),
        End(activate, [jax.ShapeDtypeStruct((size, inner), dtype)]),
        each=gate_NK.shape[1], interpret=interpret, name="experts_gate_up",
    )[0]  # fmt: skip
    y_AD = grouped_matmul(
        form, schedule, act_AF, Factor(down, x_ND.shape[1]),
        End(keep, [jax.ShapeDtypeStruct((size, x_ND.shape[1]), dtype)]),
        interpret=interpret, name="experts_down",
    )[0]  # fmt: skip
    return combine(form, schedule, y_AD, gate_NK, x_ND.shape[0], interpret=interpret)


def _chunk_backward(
    form: Form, gate_up: Any, down: Any, x_ND: Any, gate_NK: Any, d_out_ND: Any, schedule: ExpertSchedule, sums: Any, *,
    interpret: bool,
) -> Any:  # fmt: skip
    inner, each = down.shape[1], gate_NK.shape[1]
    size, dtype = schedule.order_A.size, x_ND.dtype
    gate_A = gate_NK.reshape(-1)[schedule.order_A].astype(jnp.float32)

    half = jax.ShapeDtypeStruct((size, inner), dtype)
    gate_AF, up_AF = grouped_matmul(
        form, schedule, x_ND, Factor(gate_up, inner, (0, inner)), End(keep, [half, half]),
        each=each, interpret=interpret, name="experts_gate_up_again",
    )  # fmt: skip

    def through_activation(parts: Any, block: Block, *refs: Any) -> None:
        gate_ref, up_ref, weight_ref, d_both_ref, act_ref, part_ref = refs
        (d_act,) = parts  # of the activation, without the router's gate
        gate, up = block.load(gate_ref), block.load(up_ref)
        chance = jax.nn.sigmoid(gate)
        act = gate * chance * up
        part = part_ref.at[pl.program_id(1), block.place]
        triton.store(part, jnp.sum(jnp.where(block.inside[None], act * d_act, 0.0), axis=1), mask=block.real)
        weight = triton.load(weight_ref.at[block.place], mask=block.real, other=0.0)[:, None]
        block.store(act_ref, act * weight)
        d_act *= weight
        block.store(d_both_ref, d_act * up * chance * (1 + gate * (1 - chance)))
        block.store(d_both_ref, d_act * gate * chance, shift=inner)

    results = [
        jax.ShapeDtypeStruct((size, 2 * inner), dtype),
        half,
        jax.ShapeDtypeStruct((pl.cdiv(inner, block_width(inner)), size), jnp.float32),
    ]
    d_both_AF, act_AF, d_gate_parts = grouped_matmul(
        form, schedule, d_out_ND, Factor(down, inner, turned=True),
        End(through_activation, results, (gate_AF, up_AF, gate_A)),
        each=each, interpret=interpret, name="experts_back_to_activation",
    )  # fmt: skip

    d_x_AD = grouped_matmul(
        form, schedule, d_both_AF, Factor(gate_up, x_ND.shape[1], turned=True),
        End(keep, [jax.ShapeDtypeStruct((size, x_ND.shape[1]), dtype)]),
        interpret=interpret, name="experts_back_to_tokens",
    )[0]  # fmt: skip
    d_x_ND = combine(form, schedule, d_x_AD, jnp.ones_like(gate_NK), x_ND.shape[0], interpret=interpret)
    d_gate_up, d_down = sums
    sums = (
        weight_gradient(form, schedule, x_ND, d_both_AF, d_gate_up, left_each=each, interpret=interpret),
        weight_gradient(form, schedule, act_AF, d_out_ND, d_down, right_each=each, interpret=interpret),
    )
    return d_x_ND, jnp.sum(d_gate_parts, axis=0), sums
