"""The optimiser against its definition: Adam's first step, Muon's orthogonal one, and who is trained by which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.configs.training import OptimizerConfig
from hypereyes_jax.learner.optimizer import learning_rate, make_optimizer, matrices
from tests.learner import small
from tests.random_weights import random_params

MUON = OptimizerConfig(
    learning_rate=1e-3, muon_learning_rate=0.02, schedule="constant", weight_decay=0.0, clip_norm=1e9
)


@pytest.fixture(scope="module")
def first_update():
    params = random_params(small.CONFIG)
    leaves, shape = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    grads = shape.unflatten([rng.normal(size=x.shape).astype(np.float32) for x in leaves])
    optimizer = make_optimizer(MUON)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    return params, grads, updates


@pytest.mark.parametrize("name", ["q", "o", "gate", "down"])
def test_muon_makes_a_matrix_update_nearly_orthogonal(first_update, name):
    _, grads, updates = first_update
    update, grad = np.asarray(updates["layers"][name][0]), np.asarray(grads["layers"][name][0])
    into, out = update.shape
    size = 0.02 * np.sqrt(max(1.0, out / into))
    values = np.linalg.svd(update, compute_uv=False)
    # Five Newton-Schulz steps bring every singular value near 1, not to it.
    assert values.max() < 1.3 * size
    assert np.median(values) > 0.6 * size
    left, _, right = np.linalg.svd(grad, full_matrices=False)
    assert np.sum(update * -(left @ right)) / np.linalg.norm(update) / np.sqrt(min(into, out)) > 0.9


def test_embeddings_and_norms_take_the_first_step_of_nadam(first_update):
    _, grads, updates = first_update
    step = 1e-3 * (1 + MUON.b1 / (1 + MUON.b1))  # with Nesterov's momentum, as optax pairs it with Muon
    for pick in (lambda tree: tree["embed"], lambda tree: tree["layers"]["attn_norm"], lambda tree: tree["norm"]):
        np.testing.assert_allclose(pick(updates), -step * np.sign(pick(grads)), rtol=1e-3)


def test_every_leaf_has_its_optimiser(first_update):
    params, _, updates = first_update
    axes = jax.tree.leaves(matrices(params), is_leaf=lambda x: x is None or hasattr(x, "reduction_axis"))
    by_muon = [each is not None for each in axes]
    assert 0 < sum(by_muon) < len(by_muon) == len(jax.tree.leaves(params))
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(updates))


def test_warm_up_then_cosine():
    rate = learning_rate(OptimizerConfig(learning_rate=1.0, final_learning_rate=0.1, warmup_steps=4, total_steps=104))
    np.testing.assert_allclose([rate(step) for step in (0, 3, 4, 54, 104, 500)], [0.25, 1, 1, 0.55, 0.1, 0.1])
    # At a quarter and three quarters a cosine is not a line: 0.1 + 0.45 (1 + cos(pi / 4)), and with the sign turned.
    np.testing.assert_allclose([rate(29), rate(79)], [0.86820, 0.23180], atol=1e-5)


@pytest.mark.parametrize("recipe", ["hypereyes_30b_sft", "hypereyes_30b_rl"])
def test_adamw_as_the_paper_s_recipes_set_it_is_that_of_torch(recipe):
    """Three steps with clipping in force, weight decay on matrices only, and each recipe's own betas and schedule."""
    torch = pytest.importorskip("torch")
    config = RECIPES[recipe].learner.optimizer
    rng = np.random.default_rng(0)
    params = {
        "layers": {"q": rng.normal(size=(2, 3, 4)), "attn_norm": rng.normal(size=(2, 3))},
        "vision": {"proj_b": rng.normal(size=(5,))},
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    grads = [jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params) for _ in range(3)]
    assert np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(grads[0]))) > 2 * config.clip_norm

    theirs = [torch.nn.Parameter(torch.tensor(np.asarray(x))) for x in jax.tree.leaves(params)]
    by_shape = {tuple(x.shape): x for x in theirs}
    groups = [
        {"params": [by_shape[2, 3, 4]], "weight_decay": config.weight_decay},
        {"params": [by_shape[2, 3], by_shape[5,]], "weight_decay": 0.0},
    ]
    assert config.weight_decay > 0
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(config.b1, config.b2), eps=config.eps)
    optimizer, rate = make_optimizer(config), learning_rate(config)
    state, ours = optimizer.init(params), params
    for step, grad in enumerate(grads):
        updates, state = optimizer.update(grad, state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
        for parameter, value in zip(theirs, jax.tree.leaves(grad), strict=True):
            parameter.grad = torch.tensor(np.asarray(value))
        torch.nn.utils.clip_grad_norm_(theirs, config.clip_norm)
        for group in reference.param_groups:
            group["lr"] = float(rate(step))
        reference.step()
    # Steps are some 1e-6 of the weights: compare what moved. 1 % of it is what float32 weights leave of such a step.
    moved = float(rate(0))
    for mine, his in zip(jax.tree.leaves(ours), theirs, strict=True):
        np.testing.assert_allclose(np.asarray(mine), his.detach().numpy(), atol=max(1e-2 * moved, 2e-7))
