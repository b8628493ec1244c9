"""Experts with adapters in Triton kernels, interpreted, against every expert on every token: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.models.lora import Lora, LoraConfig, LoraRule
from hypereyes_jax.models.qwen3_vl import triton_adapted
from hypereyes_jax.models.qwen3_vl.moe import _experts
from tests.models.test_triton_experts import EACH, EXPERTS, INNER, TOKENS, WIDTH, arrays

pytestmark = pytest.mark.gpu

RANK = 8  # the paper's, below the least size of a Triton matmul
RULES = (LoraRule("layers/expert_(gate_up|down)", RANK, 32.0),)


def adapters(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(7), 4)
    shapes = {"expert_gate_up": (WIDTH, 2 * INNER), "expert_down": (INNER, WIDTH)}
    return {
        name: {
            "a": jax.random.normal(keys[2 * n], (EXPERTS, terms, RANK), dtype) * terms**-0.5,
            "b": jax.random.normal(keys[2 * n + 1], (EXPERTS, RANK, columns), dtype) * RANK**-0.5,
        }
        for n, (name, (terms, columns)) in enumerate(shapes.items())
    }


def with_gradients(impl, given, adapter, dropout=0.0, key=None):
    """The result, and the gradients of the adapters, the tokens and the router's gates."""
    gate_up, down, x, gate, expert, direction = given
    lora = Lora({}, LoraConfig(RULES, dropout))

    def loss(adapter, x, gate):
        w = {"expert_gate_up": gate_up, "expert_down": down}
        out = _experts(impl, lora, key, w, adapter, x, gate, expert, 0.5)
        return jnp.sum(out.astype(jnp.float32) * direction), out

    gradients, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(adapter, x, gate)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path((gradients, out))}


def test_values_and_gradients_are_those_of_each_expert_by_itself(monkeypatch):
    """In two chunks, whose adapters' gradients add up; ids below 0 and from 5 on belong to other devices."""
    monkeypatch.setattr(triton_adapted, "_CHUNK", TOKENS * EACH // 2)
    given, adapter = arrays(first=1), adapters()
    ours, dense = (with_gradients(impl, given, adapter) for impl in ("grouped", "dense"))
    assert ours.keys() == dense.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, dense[name], atol=2e-5 * max(1.0, float(jnp.abs(dense[name]).max())))


def test_dropout_falls_on_the_adapters_inputs_alone_and_its_gradient_has_the_same_mask():
    """As in XLA's own grouped matmuls, whose rows lie in the same order, with the chunk's key."""
    given, adapter, key = arrays(), adapters(), jax.random.key(3)
    ours = with_gradients("grouped", given, adapter, 0.4, key)
    ragged = with_gradients("ragged", given, adapter, 0.4, jax.random.fold_in(key, 0))
    plain = with_gradients("ragged", given, adapter)
    for name, value in ours.items():
        scale = max(1.0, float(jnp.abs(ragged[name]).max()))
        np.testing.assert_allclose(value, ragged[name], atol=2e-5 * scale)
        assert float(jnp.abs(value - plain[name]).max()) > 1e-3 * scale


def test_bfloat16_keeps_its_type():
    given, adapter = arrays(jnp.bfloat16), adapters()
    ours = with_gradients("grouped", given, adapter)
    exact = with_gradients("dense", [x if x.dtype == jnp.int32 else x.astype(jnp.float32) for x in given], adapter)
    for name, value in ours.items():
        assert value.dtype == (jnp.float32 if "'" in name else jnp.bfloat16)  # adapters are kept in float32
        # 8 bits of the value itself, and of what was rounded on the way
        np.testing.assert_allclose(
            value.astype(jnp.float32), exact[name], atol=2**-6 * float(jnp.abs(exact[name]).max())
        )
