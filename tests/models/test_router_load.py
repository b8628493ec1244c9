"""How evenly routers spread tokens, against numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np

from hypereyes_jax.models.qwen3_vl.moe import RouterLoad, load_balancing_loss


def load(assigned, probability, tokens):
    """Layers of shares in tokens."""
    assigned, probability = jnp.asarray(assigned, jnp.float32), jnp.asarray(probability, jnp.float32)
    return RouterLoad(assigned, probability, jnp.full(assigned.shape[0], tokens, jnp.float32))


def test_an_even_layer_costs_one_and_layers_add_up():
    even = [10.0, 10.0, 10.0, 10.0]  # 20 tokens, 2 experts each of 4
    np.testing.assert_allclose(load_balancing_loss(load([even] * 3, [[5.0] * 4] * 3, 20)), 3.0, rtol=1e-6)


def test_layers_that_cancel_are_punished():
    # Each layer sends all tokens to half of its experts, and the two layers to opposite halves: summed, they look even.
    first, second = [20.0, 20.0, 0.0, 0.0], [0.0, 0.0, 20.0, 20.0]
    cancelling = load([first, second], [[x / 2 for x in first], [x / 2 for x in second]], 20)
    # A layer: 4 / 2 * (1 * 0.5 + 1 * 0.5) = 2.
    np.testing.assert_allclose(load_balancing_loss(cancelling), 4.0, rtol=1e-6)


def test_it_is_the_formula_of_megatron():
    """`switch_load_balancing_loss_func`: sum(probability * assigned) * experts / (tokens^2 * k), layer by layer."""
    rng = np.random.default_rng(0)
    tokens, experts, k = 50, 8, 2
    probability = rng.dirichlet(np.ones(experts), (3, tokens))
    chosen = np.argsort(-probability, axis=-1)[..., :k]
    assigned = np.stack([np.bincount(layer.reshape(-1), minlength=experts) for layer in chosen])
    summed = probability.sum(1)
    wanted = sum((summed[i] * assigned[i]).sum() * experts / (tokens**2 * k) for i in range(3))
    np.testing.assert_allclose(load_balancing_loss(load(assigned, summed, tokens)), wanted, rtol=1e-5)
