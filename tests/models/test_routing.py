"""Experts that are told, kept and recorded, against numbers worked out by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig
from hypereyes_jax.learner.forward import Forward
from hypereyes_jax.models.qwen3_vl import Kernels, init_params
from hypereyes_jax.models.qwen3_vl.moe import UNKNOWN_EXPERT, Routing, mixture
from hypereyes_jax.processing import pack_inputs
from tests import small_models

CONFIG = TextConfig(vocab_size=64, hidden_size=2, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=1)
SILU_1 = 1 / (1 + np.exp(-1))
# Of a token [1, 0]: the router's probabilities are 2/8, 1/8 and 5/8, the experts' outputs silu(1) times 1, 2 and 4.
ROUTER = jnp.log(jnp.array([[2.0, 1.0, 5.0], [1.0, 1.0, 1.0]]))
UP = jnp.array([1.0, 2.0, 4.0])


def output(router, routing, impl="dense"):
    ones = jnp.ones(3)
    w = {
        "router": router,
        "expert_gate_up": jnp.stack([jnp.stack([ones, UP], -1), jnp.zeros((3, 2))], 1)[..., None],  # [E, D, 2, 1]
        "expert_down": jnp.stack([ones, jnp.zeros(3)], -1)[:, None],  # [E, 1, D]
    }
    x = jnp.array([[[1.0, 0.0]]])
    y, routed = mixture(w, CONFIG, x, jnp.ones((1, 1), bool), impl, None, {}, None, routing)
    return y[0, 0, 0], routed


def told(*experts):
    return Routing(jnp.array([[experts]], jnp.uint8), record=True)


@pytest.mark.parametrize("impl", ["dense", "ragged", "blocks"])
def test_told_experts_are_weighed_by_the_routers_own_probabilities(impl):
    y, routed = output(ROUTER, told(1, 0), impl)
    np.testing.assert_allclose(y, SILU_1 * (1 / 3 * 2 + 2 / 3 * 1), rtol=1e-6)
    assert routed.experts.tolist() == [[[1, 0]]]
    assert routed.load.assigned_E.tolist() == [1, 1, 0]


@pytest.mark.parametrize("impl", ["dense", "ragged", "blocks"])
def test_the_routers_gradient_is_that_of_the_told_experts(impl):
    """d/dl_e of sum w y / sum w with w = exp(l) is share_e (y_e - mean): 2/3 (1 - 4/3) and 1/3 (2 - 4/3)."""
    gradient = jax.grad(lambda router: output(router, told(1, 0), impl)[0])(ROUTER)
    np.testing.assert_allclose(gradient, SILU_1 * np.array([[-2 / 9, 2 / 9, 0], [0, 0, 0]]), atol=1e-7)


@pytest.mark.parametrize("routing", [told(UNKNOWN_EXPERT, UNKNOWN_EXPERT), Routing(keep=True, record=True)])
def test_where_nothing_is_told_the_router_chooses_and_learns_as_ever(routing):
    y, routed = output(ROUTER, routing)
    np.testing.assert_allclose(y, SILU_1 * (5 / 7 * 4 + 2 / 7 * 1), rtol=1e-6)
    assert routed.experts.tolist() == [[[2, 0]]]
    wanted = jax.grad(lambda router: output(router, Routing())[0])(ROUTER)
    np.testing.assert_allclose(jax.grad(lambda router: output(router, routing)[0])(ROUTER), wanted, atol=1e-7)


@pytest.mark.parametrize("remat", ["dots", "attention", "full"])
def test_a_layer_that_is_computed_again_takes_the_experts_it_had_chosen(remat):
    text = replace(small_models.TEXT, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    config = Qwen3VLConfig(text, small_models.VISION, 1, 2, 3, 4)
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    inputs = pack_inputs(config, [(np.arange(5, 12), ())])
    forward = Forward(config, Kernels(), remat=remat)

    def choices(routing):
        def loss(params):
            return forward.hidden(params, None, inputs, routing=routing)[0].sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count(" top_k[")

    assert (choices(Routing()), choices(Routing(keep=True))) == (2, 1)


def test_told_experts_of_a_batch_reach_their_layers_and_tokens():
    config = Qwen3VLConfig(replace(small_models.TEXT, num_experts_per_tok=2), small_models.VISION, 1, 2, 3, 4)
    forward = Forward(config, Kernels())
    experts_BCT = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)  # two rows, two layers, two choices, 3 tokens
    routing = forward.routing("sampler", jnp.asarray(experts_BCT))
    for row in range(2):
        for layer in range(2):
            for token in range(3):
                wanted = [experts_BCT[row, 2 * layer + choice, token] for choice in range(2)]
                assert routing.experts[layer, row, token].tolist() == wanted
    assert forward.routing("off", jnp.asarray(experts_BCT)) == Routing()
    with pytest.raises(ValueError, match=r"PackConfig\.routes"):
        forward.routing("sampler", None)
