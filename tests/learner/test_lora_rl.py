"""RL of adapters against the gradient of the weights that they are merged into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import pack
from hypereyes_jax.models.lora import LoraConfig, LoraRule, merge
from tests.learner.by_hand import LEARN, PACK, PLAIN, assert_close, copy, gradient, spread_params
from tests.learner.small import CONFIG, samples
from tests.random_weights import random_lora

RULES = LoraConfig((LoraRule("layers/.*", 4, 8.0),), dropout=0.5)  # RL must not drop anything, whatever this says
SCALE = 8.0 / 4


@pytest.fixture(scope="module")
def setup():
    params = spread_params()
    lora = random_lora(CONFIG, RULES)  # trained for a while: with `b` zero, `a` has no gradient
    learner = make_learner(CONFIG, LearnerConfig(optimizer=PLAIN, train="lora"))
    state = learner.init(jax.random.key(2), copy(params), copy(lora))
    batch = pack(CONFIG, samples(5), PACK)
    return params, lora, learner.rl_step(state, batch)


@pytest.mark.slow  # a second program to compile
def test_the_gradient_of_adapters_is_that_of_the_merged_weights_projected(setup):
    params, lora, (state, metrics) = setup
    learner = make_learner(CONFIG, LEARN)
    merged = merge(params, lora)
    whole, of_merged = learner.rl_step(learner.init(jax.random.key(2), copy(merged)), pack(CONFIG, samples(5), PACK))
    full = gradient(whole)["layers"]

    def projected(name, adapter):
        a_LIR, b_LRO = adapter["a"], adapter["b"]
        grad_LIO = full[name].reshape(a_LIR.shape[0], a_LIR.shape[1], b_LRO.shape[-1])
        return {
            "a": SCALE * jnp.einsum("lio,lro->lir", grad_LIO, b_LRO),
            "b": SCALE * jnp.einsum("lir,lio->lro", a_LIR, grad_LIO),
        }

    wanted = {name: projected(name, adapter) for name, adapter in lora.weights["layers"].items()}
    # one pass adds adapters to activations, the other to weights: rounding of float32 products thrice as long
    assert_close(gradient(state).weights["layers"], wanted, 2e-5)
    for name in ("loss", "logp", "entropy"):
        np.testing.assert_allclose(metrics[name], of_merged[name], rtol=1e-4, atol=1e-6)


def test_a_step_keeps_moments_of_adapters_only_and_leaves_the_base_to_the_bit(setup):
    params, lora, (state, _) = setup
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(state.frozen), strict=True):
        np.testing.assert_array_equal(before, after)
    adapters = sum(x.size for x in jax.tree.leaves(lora))
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments == 2 * adapters
    moved = [jnp.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (state.trainable, lora)), strict=True)]
    assert min(moved) > 1e-4  # a first step of Adam moves what has a gradient by the learning rate, 1e-3
