"""Agreement with verl and trl, by the numbers that tests/rl/oracles derives from them.

Tolerance 1e-5: both sides are float32.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.rl import (
    aggregate,
    group_relative_advantage,
    policy_loss,
    reverse_kl,
    reverse_kl_topk,
    token_logprobs,
)

GOLDENS = json.loads((Path(__file__).parent / "data" / "goldens.json").read_text())
TOLERANCE = 1e-5


def case(name):
    inputs = {key: np.array(value) for key, value in GOLDENS["inputs"][name].items()}
    floats = {key: x.astype(np.float32) for key, x in inputs.items() if x.dtype == np.float64}
    return {**inputs, **floats}, GOLDENS["outputs"][name]


def policy(inputs, mode, tis, rows=slice(None)):
    x = {name: value[rows] for name, value in inputs.items()}

    def loss(logp):
        per_token, metrics = policy_loss(
            logp, x["old_logp"], x["advantage"], x["mask"], sampler_logp_BT=x["sampler_logp"] if tis else None
        )
        return aggregate(per_token, x["mask"], mode), metrics

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(x["logp"])


@pytest.mark.parametrize("mode", ["sequence", "token"])
@pytest.mark.parametrize("tis", [False, True])
def test_policy_loss_and_gradient_agree_with_verl(mode, tis):
    inputs, expected = case("policy")
    (loss, _), gradient = policy(inputs, f"{mode}-mean", tis)
    name = f"verl_{mode}{'_tis' if tis else ''}"
    assert loss == pytest.approx(expected[f"{name}_loss"], abs=TOLERANCE)
    np.testing.assert_allclose(gradient, expected[f"{name}_gradient"], atol=TOLERANCE)


def test_the_case_has_every_clip_active():
    """Otherwise agreement would say nothing about them."""
    inputs, _ = case("policy")
    (_, metrics), _ = policy(inputs, "token-mean", True)
    assert metrics["clip_fraction"] > 0.05
    assert metrics["dual_clip_fraction"] > 0
    assert metrics["tis_capped_fraction"] > 0


def test_policy_metrics_agree_with_verl():
    inputs, expected = case("policy")
    (_, metrics), _ = policy(inputs, "token-mean", False)
    ours = {"pg_clipfrac": "clip_fraction", "ppo_kl": "approx_kl", "pg_clipfrac_lower": "dual_clip_fraction"}
    for theirs, name in ours.items():
        assert metrics[name] == pytest.approx(expected["verl_metrics"][theirs], abs=TOLERANCE)


@pytest.mark.parametrize(("mode", "rows"), [("sequence", slice(0, 3)), ("token", slice(0, 5))])
def test_policy_loss_and_gradient_agree_with_trl(mode, rows):
    inputs, expected = case("policy")
    (loss, _), gradient = policy(inputs, f"{mode}-mean", False, rows)
    assert loss == pytest.approx(expected[f"trl_{mode}_loss"], abs=TOLERANCE)
    np.testing.assert_allclose(gradient, expected[f"trl_{mode}_gradient"], atol=TOLERANCE)


@pytest.mark.parametrize("mode", ["sequence", "token"])
def test_aggregate_agrees_with_verl_with_a_fully_masked_row(mode):
    inputs, expected = case("policy")
    value = aggregate(inputs["advantage"], inputs["mask"], f"{mode}-mean")
    assert value == pytest.approx(expected[f"verl_{mode}_aggregate_of_advantage"], abs=TOLERANCE)


def test_group_advantage_agrees_with_verl():
    inputs, expected = case("advantage")
    np.testing.assert_allclose(group_relative_advantage(inputs["rewards"]), expected["verl_advantage"], atol=TOLERANCE)


def test_logprobs_and_entropy_agree_with_verl():
    inputs, expected = case("logits")
    head = jnp.eye(13)  # hidden @ identity: the logits themselves
    logp, entropy = token_logprobs(inputs["student"], head, inputs["targets"], temperature=0.8, chunk=5)
    np.testing.assert_allclose(logp, expected["verl_logp"], atol=TOLERANCE)
    np.testing.assert_allclose(entropy, expected["verl_entropy"], atol=TOLERANCE)


@pytest.mark.parametrize("kl", [reverse_kl, lambda *args: reverse_kl_topk(*args, k=13)], ids=["full", "k = V"])
def test_reverse_kl_agrees_with_trl(kl):
    inputs, expected = case("logits")

    def loss(student):
        return aggregate(kl(student, inputs["teacher"], inputs["mask"]), inputs["mask"], "token-mean")

    value, gradient = jax.jit(jax.value_and_grad(loss))(inputs["student"])
    assert value == pytest.approx(expected["trl_reverse_kl"], abs=TOLERANCE)
    np.testing.assert_allclose(gradient, expected["trl_reverse_kl_gradient"], atol=TOLERANCE)
