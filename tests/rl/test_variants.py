"""The losses, penalties and group rules beside the paper's, against verl, trl and numbers by hand.

Tolerance 1e-5 against other packages: both sides are float32.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.rl import (
    aggregate,
    cispo_loss,
    group_centred_advantage,
    gspo_loss,
    informative_groups,
    kl_penalty,
    overlong_penalty,
    policy_loss,
    spending_cost,
    truncated_importance_weight,
    updated_prices,
)

DOCUMENT = json.loads((Path(__file__).parent / "data" / "goldens.json").read_text())
X = {name: np.asarray(value, np.float32) for name, value in DOCUMENT["inputs"]["variants"].items()}
EXPECTED = DOCUMENT["outputs"]["variants"]
TOLERANCE = 1e-5
CLIPS = {"clip_low": 0.2, "clip_high": 0.28}
LOSSES = {"gspo": (gspo_loss, CLIPS, "sequence-mean"), "cispo": (cispo_loss, CLIPS, "token-mean")}


def reduced(function, options, mode, x=X, rows=slice(None), denominator=None):
    x = {name: value[rows] for name, value in x.items() if value.ndim == 2}

    def loss(logp):
        per_token, metrics = function(logp, x["old_logp"], x["advantage"], x["mask"], **options)
        return aggregate(per_token, x["mask"], mode, denominator), metrics

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(x["logp"])
    return value, gradient, metrics


@pytest.mark.parametrize("name", LOSSES)
def test_loss_gradient_and_clipping_agree_with_verl(name):
    value, gradient, metrics = reduced(*LOSSES[name])
    assert value == pytest.approx(EXPECTED[f"verl_{name}_loss"], abs=TOLERANCE)
    np.testing.assert_allclose(gradient, EXPECTED[f"verl_{name}_gradient"], atol=TOLERANCE)
    assert metrics["clip_fraction"] == pytest.approx(EXPECTED[f"verl_{name}_clip_fraction"], abs=TOLERANCE)
    assert 0.05 < metrics["clip_fraction"] < 0.95  # or agreement would say nothing of one side


def test_gspo_agrees_with_trl():
    value, gradient, _ = reduced(*LOSSES["gspo"], rows=slice(0, 3))
    assert value == pytest.approx(EXPECTED["trl_gspo_loss"], abs=TOLERANCE)
    np.testing.assert_allclose(gradient, EXPECTED["trl_gspo_gradient"], atol=TOLERANCE)


def test_cispo_without_a_lower_bound_agrees_with_trl():
    value, gradient, _ = reduced(cispo_loss, {"clip_low": 1.0, "clip_high": 0.28}, "token-mean")
    assert value == pytest.approx(EXPECTED["trl_cispo_loss"], abs=TOLERANCE)
    np.testing.assert_allclose(gradient, EXPECTED["trl_cispo_gradient"], atol=TOLERANCE)


def test_dr_grpo_is_a_token_sum_over_rollouts_times_the_longest():
    value, gradient, _ = reduced(policy_loss, {}, "token-mean", denominator=5 * 9)
    assert value == pytest.approx(EXPECTED["trl_dr_grpo_loss"], abs=TOLERANCE)
    np.testing.assert_allclose(gradient, EXPECTED["trl_dr_grpo_gradient"], atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_penalty_agrees_with_verl(kind):
    def total(logp):
        penalty = kl_penalty(logp, X["reference_logp"], X["mask"], kind)
        return jnp.sum(penalty), penalty

    (_, penalty), gradient = jax.value_and_grad(total, has_aux=True)(X["logp"])
    np.testing.assert_allclose(penalty, EXPECTED[f"verl_{kind}"], atol=TOLERANCE)
    np.testing.assert_allclose(gradient, EXPECTED[f"verl_{kind}_gradient"], atol=TOLERANCE)


def test_kl_penalty_beside_the_clipped_loss_agrees_with_trl():
    x = {name: value[:3] for name, value in X.items() if value.ndim == 2}

    def loss(logp):
        per_token, _ = policy_loss(logp, x["old_logp"], x["advantage"], x["mask"])
        penalty = kl_penalty(logp, x["reference_logp"], x["mask"])
        return aggregate(per_token + 0.5 * penalty, x["mask"])

    value, gradient = jax.value_and_grad(loss)(x["logp"])
    assert value == pytest.approx(EXPECTED["trl_k3_loss"], abs=TOLERANCE)
    np.testing.assert_allclose(gradient, EXPECTED["trl_k3_gradient"], atol=TOLERANCE)


def test_k2_and_k3_are_never_negative_and_k3_estimates_the_kl():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    logp, reference = np.log(p)[None].astype(np.float32), np.log(q)[None].astype(np.float32)
    exact = np.sum(p * np.log(p / q))
    for kind in ("k1", "k3"):  # the mean under the policy, by summing over the three tokens
        assert np.sum(p * kl_penalty(logp, reference, np.ones((1, 3)), kind)[0]) == pytest.approx(exact, abs=1e-6)
    for kind in ("k2", "k3"):
        assert np.all(kl_penalty(logp, reference, np.ones((1, 3)), kind) >= 0)


@pytest.mark.parametrize("function", [gspo_loss, cispo_loss])
def test_what_is_masked_reaches_neither_loss_nor_gradient(function):
    mask = X["mask"]
    nan = {name: np.where(mask > 0, X[name], np.nan) for name in ("logp", "old_logp", "advantage")}
    clean, gradient, metrics = reduced(function, {}, "token-mean")
    dirty, dirty_gradient, dirty_metrics = reduced(function, {}, "token-mean", {**X, **nan})
    assert clean == dirty
    np.testing.assert_array_equal(gradient, dirty_gradient)
    assert metrics == dirty_metrics


def test_gspo_of_a_packed_row_equals_gspo_of_its_sequences():
    sequence = np.repeat([[0], [1], [4]], 9, axis=1)
    packed = {name: value[:3].reshape(1, -1) for name, value in X.items() if value.ndim == 2}
    options = {"sequence_BT": sequence.reshape(1, -1), **CLIPS}
    arguments = [packed[name] for name in ("logp", "old_logp", "advantage", "mask")]
    apart = [X[name][:3] for name in ("logp", "old_logp", "advantage", "mask")]
    np.testing.assert_allclose(
        gspo_loss(*arguments, **options)[0].reshape(3, 9), gspo_loss(*apart, **CLIPS)[0], atol=1e-6
    )
    merged = gspo_loss(*arguments, **CLIPS)[0].reshape(3, 9)  # one sequence of all three: other ratios
    assert np.abs(merged - gspo_loss(*apart, **CLIPS)[0]).max() > 0.01


def test_an_importance_weight_alone_is_that_of_policy_loss():
    old, sampler = np.array([[-1.0, -1.0, -1.0, -1.0]]), np.array([[-1.0, -1.5, -6.0, np.nan]])
    mask = np.array([[1, 1, 1, 0]])
    weight, metrics = truncated_importance_weight(old, sampler, mask)
    np.testing.assert_allclose(weight, [[1.0, np.exp(0.5), 2.0, 1.0]], rtol=1e-6)
    assert metrics["tis_capped_fraction"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="cap must be positive"):
        truncated_importance_weight(old, sampler, mask, cap=0)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_policy_loss_is_corrected_by_exactly_the_weight_that_stands_alone(compiled):
    old, advantage, mask = X["old_logp"], X["advantage"], X["mask"]
    rng = np.random.default_rng(0)
    sampler = np.where(rng.random(old.shape) < 0.2, np.nan, old + rng.normal(0, 1, old.shape)).astype(np.float32)
    run = jax.jit if compiled else lambda function: function
    corrected, metrics = run(lambda: policy_loss(X["logp"], old, advantage, mask, sampler_logp_BT=sampler))()
    plain, plain_metrics = run(lambda: policy_loss(X["logp"], old, advantage, mask))()
    weight, weight_metrics = run(lambda: truncated_importance_weight(old, sampler, mask))()
    assert 0.1 < weight_metrics["tis_capped_fraction"] < 0.9
    np.testing.assert_array_equal(corrected, plain * weight)
    assert metrics == {**plain_metrics, **weight_metrics}


def test_centred_advantage_agrees_with_verl():
    rewards = X["advantage"][:, 0]
    ours = np.concatenate([group_centred_advantage(rewards[:2]), group_centred_advantage(rewards[2:])])
    np.testing.assert_allclose(ours, EXPECTED["verl_centred_advantage"], atol=TOLERANCE)


def test_centred_advantage_leaves_masked_rollouts_out():
    advantage = group_centred_advantage([[1.0, 0.0, np.nan], [1.0, np.nan, np.nan]], [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(advantage, [[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]])


def test_groups_without_a_difference_between_valid_rollouts_are_told():
    rewards = [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, np.nan], [1.0, np.nan, np.nan], [0.0, 1.0, np.nan]]
    valid = [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert informative_groups(rewards, valid).tolist() == [True, False, False, False, True]


def test_overlong_penalty_agrees_with_verl_and_stops_at_the_limit():
    np.testing.assert_allclose(overlong_penalty(X["length"], 120, 40, 0.5), EXPECTED["verl_overlong"], atol=TOLERANCE)
    assert overlong_penalty(500, 120, 40, 0.5) == -0.5
    with pytest.raises(ValueError, match="buffer must be positive"):
        overlong_penalty(X["length"], 120, 0)


def test_spending_costs_its_prices():
    np.testing.assert_allclose(spending_cost([[3, 1], [0, 2]], [0.1, 0.25]), [0.55, 0.5], rtol=1e-6)


def test_prices_rise_above_the_target_fall_below_it_and_stay_in_bounds():
    prices = updated_prices([0.1, 0.1, 0.0, 0.99], [4, 1, 1, 20], [2, 2, 2, 2], rate=0.05)
    np.testing.assert_allclose(prices, [0.15, 0.075, 0.0, 1.0], rtol=1e-6)
    assert updated_prices([0.1], [4], [np.inf])[0] == pytest.approx(0.05)


def test_prices_bring_spending_to_its_target():
    """A made-up policy that spends 6 less 20 for each unit of price: with a target of 3 the price must become 0.15."""
    step = jax.jit(lambda prices: updated_prices(prices, jnp.maximum(6 - 20 * prices, 0), jnp.array([3.0])))
    prices = jnp.zeros(1)
    for _ in range(40):
        prices = step(prices)
    assert prices[0] == pytest.approx(0.15, abs=1e-3)
