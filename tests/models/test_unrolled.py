"""Layers one after another compute what a scan over them does."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from hypereyes_jax.models.qwen3_vl import Kernels, hidden_states
from hypereyes_jax.processing import pack_inputs
from tests.models.torch_reference import CONFIGS, one_image_sample
from tests.random_weights import random_lora, random_params

UNROLLED = Kernels(unrolled=True)


@pytest.mark.parametrize("family", ["dense", "moe"])
def test_states_and_gradients_of_weights_and_adapters_are_those_of_a_scan(family):
    config = CONFIGS[family]
    config = replace(
        config,
        text=replace(config.text, num_hidden_layers=2),
        vision=replace(config.vision, depth=2, deepstack_visual_indexes=(1,)),
    )
    tokens, image = one_image_sample(config)
    inputs = pack_inputs(config, [(tokens, [image])])
    given = (random_params(config), random_lora(config))

    def loss(given, kernels):
        states = hidden_states(given[0], config, inputs, given[1], dropout_key=jax.random.key(3), kernels=kernels)
        return (states**2).mean(), states

    results = [jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(given, k) for k in (Kernels(), UNROLLED)]
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-4, atol=2e-5 * max(1.0, np.abs(one).max()))


def test_with_recomputation_layers_stay_in_a_scan_which_takes_least_memory():
    config = CONFIGS["dense"]
    config = replace(config, text=replace(config.text, num_hidden_layers=4))
    inputs = pack_inputs(config, [(np.full(250, 5), ())])
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), random_params(config))

    def temporaries(remat):
        def loss(params):
            return hidden_states(params, config, inputs, remat=remat, kernels=UNROLLED).sum()

        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporaries("full") < 0.5 * temporaries("none")


@pytest.mark.parametrize(
    ("platform", "layers", "unrolled"), [("cpu", 4, True), ("cpu", 28, False), ("gpu", 4, False), ("tpu", 4, False)]
)
def test_training_unrolls_few_layers_and_only_on_a_cpu(platform, layers, unrolled):
    assert Kernels.for_training(platform, layers) == replace(Kernels.for_platform(platform), unrolled=unrolled)
