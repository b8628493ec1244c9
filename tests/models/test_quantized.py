"""Weights in int8: what rounding may change, and that every implementation computes with the rounded weights alike."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.lora import LoraConfig, LoraRule
from hypereyes_jax.models.quantized import Quantized, flat, product, quantize
from hypereyes_jax.models.qwen3_vl.moe import mixture
from hypereyes_jax.models.qwen3_vl.triton_experts import grouped_experts
from hypereyes_jax.models.qwen3_vl.weights import flat_weights, in_int8, is_kept_in_int8
from tests import small_models
from tests.random_weights import random_lora, random_params

TINY = Qwen3VLConfig(small_models.TEXT, small_models.VISION, **small_models.IDS)
TINY_MOE = replace(TINY, text=replace(TINY.text, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16))
IS_QUANTIZED = {"is_leaf": lambda leaf: isinstance(leaf, Quantized)}


def rounded(weight):
    """The weight that int8 stands for, in float32."""
    return weight.values.astype(jnp.float32) * weight.scale if isinstance(weight, Quantized) else weight


def test_a_weight_is_off_by_half_a_step_of_its_output_at_most():
    weight = jax.random.normal(jax.random.key(0), (3, 40, 2, 7)) * jnp.arange(1, 8) ** 3  # outputs of many sizes
    weight = weight.at[1, :, 0, 3].set(0.0)  # an output that is always zero
    small = quantize(weight, axis=1)
    assert (small.values.dtype, small.scale.shape) == (jnp.int8, (3, 1, 2, 7))
    np.testing.assert_allclose(small.scale[0, 0, 1, 2], jnp.abs(weight[0, :, 1, 2]).max() / 127, rtol=1e-6)
    assert bool((jnp.abs(rounded(small) - weight) <= small.scale * 0.5001).all())
    assert bool((jnp.abs(small.values.astype(int)).max(1) == 127).sum() == 3 * 2 * 7 - 1)
    np.testing.assert_array_equal(rounded(small)[1, :, 0, 3], 0.0)


def test_a_product_is_that_of_the_rounded_weight():
    small = flat(quantize(jax.random.normal(jax.random.key(1), (24, 2, 5)), axis=0), 0)
    x = jax.random.normal(jax.random.key(2), (3, 4, 24))
    np.testing.assert_allclose(product(x, small), x @ rounded(small), atol=1e-5)


@pytest.mark.parametrize("config", [TINY, TINY_MOE], ids=["dense", "experts"])
def test_the_decoders_linear_maps_are_rounded_and_nothing_else(config):
    params = random_params(config)
    small = in_int8(params, config)
    for path, weight in flat_weights(config):
        before, after = params, small
        for key in path.split("/"):
            before, after = before[key], after[key]
        name = path.rpartition("/")[2]
        linear = name in {"q", "k", "v", "o", "gate", "up", "down", "expert_gate_up", "expert_down"}
        assert is_kept_in_int8(path, weight) == (linear and path.startswith("layers/")) == isinstance(after, Quantized)
        if not isinstance(after, Quantized):
            assert after is before


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("impl", ["ragged", "blocks", "dense", "grouped"])
def test_every_form_of_experts_takes_them_in_int8(impl, adapted):
    text = TINY_MOE.text
    params = in_int8(random_params(TINY_MOE), TINY_MOE)
    w = jax.tree.map(lambda leaf: leaf[0], params["layers"])
    x = jax.random.normal(jax.random.key(3), (2, 40, text.hidden_size))

    lora, adapter = None, {}
    if adapted:
        lora = random_lora(TINY_MOE, LoraConfig((LoraRule("layers/expert_down", 4, 8.0),)))
        adapter = jax.tree.map(lambda leaf: leaf[0], lora.weights["layers"])

    def run(w, impl):
        return mixture(w, text, x, jnp.ones((2, 40), bool), impl, lora, adapter, None)[0]

    plain = jax.tree.map(rounded, w, **IS_QUANTIZED)
    np.testing.assert_allclose(jax.jit(run, static_argnums=1)(w, impl), run(plain, "dense"), atol=2e-5)


def test_int8_has_no_gradient():
    text = TINY_MOE.text
    w = jax.tree.map(lambda leaf: leaf[0], in_int8(random_params(TINY_MOE), TINY_MOE)["layers"])
    down, both = w["expert_down"], flat(w["expert_gate_up"], 1)
    gate, expert = jnp.ones((40, 2)) / 2, jnp.zeros((40, 2), jnp.int32).at[:, 1].set(1)

    def loss(x):
        return grouped_experts(both, down, x, gate, expert, 1.0).sum()

    with pytest.raises(TypeError, match="for sampling"):
        jax.grad(loss)(jnp.ones((40, text.hidden_size)))
