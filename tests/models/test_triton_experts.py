"""Grouped experts in Triton kernels, interpreted, against every expert on every token: values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.models.qwen3_vl import triton_experts
from hypereyes_jax.models.qwen3_vl.triton_experts import grouped_experts

pytestmark = pytest.mark.gpu

TOKENS, WIDTH, INNER, EXPERTS, EACH = 50, 40, 24, 5, 3


def arrays(dtype=jnp.float32, first=0):
    """Tokens of a router that prefers one expert and never takes another; ids from `first` on are here."""
    keys = jax.random.split(jax.random.key(0), 6)
    gate_up = jax.random.normal(keys[0], (EXPERTS, WIDTH, 2 * INNER), dtype) * WIDTH**-0.5
    down = jax.random.normal(keys[1], (EXPERTS, INNER, WIDTH), dtype) * INNER**-0.5
    x = jax.random.normal(keys[2], (TOKENS, WIDTH), dtype)
    gate = jax.nn.softmax(jax.random.normal(keys[3], (TOKENS, EACH))).astype(dtype)
    preference = jnp.array([1.0, 9.0, -9.0, 1.0, 1.0, 1.0, 1.0])
    _, expert = jax.lax.top_k(jax.random.normal(keys[4], (TOKENS, 7)) + preference, EACH)
    return gate_up, down, x, gate, expert - first, jax.random.normal(keys[5], (TOKENS, WIDTH))


def reference(gate_up, down, x, gate, expert):
    """float32, expert by expert."""
    out = 0.0
    for number in range(EXPERTS):
        one, other = jnp.split(x @ gate_up[number], 2, axis=-1)
        weight = jnp.sum(jnp.where(expert == number, gate, 0), axis=1, keepdims=True)
        out += weight * ((jax.nn.silu(one) * other) @ down[number])
    return out


def with_gradients(run, gate_up, down, x, gate, expert, direction):
    def loss(gate_up, down, x, gate):
        out = run(gate_up, down, x, gate, expert)
        return jnp.sum(out.astype(jnp.float32) * direction), out

    return jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))(gate_up, down, x, gate))


def test_grouped_experts_and_their_gradients_are_those_of_each_expert_by_itself(monkeypatch):
    """In two chunks, whose weight gradients add up; ids below 0 and from 5 on belong to other devices."""
    monkeypatch.setattr(triton_experts, "_CHUNK", TOKENS * EACH // 2)
    given = arrays(first=1)
    ours = with_gradients(partial(grouped_experts, share=0.5), *given)
    for one, other in zip(ours, with_gradients(reference, *given), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(1.0, float(jnp.abs(other).max())))


def test_bfloat16_keeps_its_type_and_sums_in_float32():
    given = arrays(jnp.bfloat16)
    ours = with_gradients(partial(grouped_experts, share=1.0), *given)
    exact = with_gradients(reference, *(x if x.dtype == jnp.int32 else x.astype(jnp.float32) for x in given))
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == jnp.bfloat16
        # 8 bits of the value itself, and of the activations and the gradients that were rounded on the way
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=2**-6 * float(jnp.abs(other).max()))


def test_nothing_is_dropped_however_uneven_the_router_is():
    """Every token takes expert 1, three times the even share, and one of its expected load is announced."""
    gate_up, down, x, gate, _, _ = arrays()
    expert = jnp.stack([jnp.full(TOKENS, 1), jnp.arange(TOKENS) % 2 * 4, jnp.full(TOKENS, 3)], axis=1)
    out = jax.jit(partial(grouped_experts, share=0.01))(gate_up, down, x, gate, expert)
    np.testing.assert_allclose(out, reference(gate_up, down, x, gate, expert), atol=2e-5)
