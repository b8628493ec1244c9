"""Losses, penalties and reductions by name, composed by hand from the functions that they name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import pack
from hypereyes_jax.models.lora import init_lora
from hypereyes_jax.rl import gspo_loss, kl_penalty
from tests.learner.by_hand import (
    LEARN,
    PACK,
    alone,
    assert_close,
    gradient,
    logp_of,
    mean_gradient,
    spread_params,
    step,
)
from tests.learner.small import CONFIG, samples


@pytest.fixture(scope="module")
def params():
    return spread_params()


@pytest.mark.slow
def test_gspo_a_kl_penalty_and_constant_lengths_are_composed_as_by_hand(params):
    """All three at once, on packed rows, with an older policy whose log-probs are the sampler's."""
    learn = dataclasses.replace(
        LEARN, loss="gspo", gspo_clip=(0.999, 1e6), kl="k2", kl_coef=0.3, reduction="constant-length", tis_cap=0.0
    )
    group = samples(5)
    cases = [alone(sample) for sample in group]

    def loss(logits, case, advantage):
        logp, mask = logp_of(logits, case, LEARN.temperature), case[2]
        advantages = jnp.full(logp.shape, advantage)
        loss_BT, _ = gspo_loss(logp, case[3], advantages, mask, *learn.gspo_clip)
        loss_BT += learn.kl_coef * kl_penalty(logp, 0.5 * case[3], mask, "k2")
        return jnp.sum(loss_BT) / max(PACK.row_lengths)

    value, wanted = mean_gradient(loss, params, cases, [sample.advantage for sample in group])
    batch = pack(CONFIG, group, dataclasses.replace(PACK, weighting=learn.reduction))
    batch = batch.replace(old_logp_MBT=batch.logp_full_MBT, reference_logp_MBT=0.5 * batch.logp_full_MBT)
    state, metrics = step(make_learner(CONFIG, learn), "rl_step", params, batch)
    assert_close(gradient(state), wanted, 1e-5)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
    with pytest.raises(ValueError, match="needs a reference"):
        step(make_learner(CONFIG, learn), "rl_step", params, batch.replace(reference_logp_MBT=None))


@pytest.mark.slow
def test_with_adapters_the_reference_of_the_kl_penalty_is_the_model_without_them(params):
    learn = dataclasses.replace(LEARN, train="lora", kl="k1", kl_coef=1.0)
    noise = 0.02 * jax.random.normal(jax.random.key(2), ())
    lora = jax.tree.map(lambda x: x + noise, init_lora(jax.random.key(1), params, CONFIG))
    learner, batch = make_learner(CONFIG, learn), pack(CONFIG, samples(4), PACK)
    mask = batch.weight_MBT > 0
    with_adapters = learner.score_logprobs(params, batch, lora, LEARN.temperature)
    without = learner.score_logprobs(params, batch, None, LEARN.temperature)
    _, metrics = step(learner, "rl_step", params, batch, lora=lora)
    wanted = float((with_adapters - without)[mask].mean())
    assert abs(wanted) > 1e-3
    np.testing.assert_allclose(metrics["kl_to_reference"], wanted, rtol=1e-3)
