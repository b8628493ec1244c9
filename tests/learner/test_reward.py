import numpy as np
import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.reward import load_rewards, made_up_group

SOURCE = """
import jax.numpy as jnp
import numpy as np

def right(group):
    return group.accuracy_G > 0, {"share": float((group.accuracy_G > 0).mean())}

def short(group):
    return -0.1 * group.rounds_G

def on_device(group):
    return jnp.asarray(group.accuracy_G)

def cited(group):
    return [sum(len(call.hits) for turn in result.turns for call in turn.invocations) for result in group.results]

def wrong_shape(group):
    return np.zeros(3)

def not_finite(group):
    return np.full(4, np.nan)

def no_arguments():
    return 0

def texts(group):
    return ["1"] * 4

def bad_metrics(group):
    return group.accuracy_G, 5
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text(SOURCE)
    return path


def test_several_rewards_are_summed_by_weight_and_their_metrics_told(own):
    rewards = load_rewards([f"{own}:right", f"{own}:short*2", f"{own}:cited*0.5"])
    total, metrics = rewards(made_up_group())
    # right 1 1 0 0; rounds 1 3 1 0; hits 2 3 1 0
    np.testing.assert_allclose(total, [1 - 0.2 + 1, 1 - 0.6 + 1.5, -0.2 + 0.5, 0], atol=1e-6)
    assert metrics["reward_right_share"] == 0.5
    assert metrics["reward_short"] == pytest.approx(-0.125)
    assert [part["weight"] for part in rewards.record()] == [1.0, 2.0, 0.5]
    assert all(len(part["sha256"]) == 64 for part in rewards.record())


def test_arrays_of_jax_are_taken(own):
    total, _ = load_rewards([f"{own}:on_device"])(made_up_group())
    np.testing.assert_array_equal(total, [1, 1, 0, -0.5])


def test_what_a_masked_rollout_is_paid_counts_nowhere(own):
    group = made_up_group()
    group.valid_G[0] = False
    total, metrics = load_rewards([f"{own}:right"])(group)
    assert total[0] == 0
    assert metrics["reward_right"] == pytest.approx(1 / 3)


def test_metrics_of_functions_of_one_name_are_told_apart(own):
    _, metrics = load_rewards([lambda group: group.accuracy_G, lambda group: -group.accuracy_G])(made_up_group())
    assert metrics == {"reward_<lambda>": 0.375, "reward_<lambda>_2": -0.375}


def test_no_name_is_no_reward():
    assert load_rewards([]) is None


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("wrong_shape", r"gave shape \(3,\) for 4 rollouts"),
        ("not_finite", "not finite"),
        ("no_arguments", "positional argument"),
        ("bad_metrics", "not a dict"),
        ("right*heavy", "weight behind"),
        ("right*nan", "must be a finite number"),
        ("texts", "real numbers are needed"),
        ("missing", "has no missing"),
    ],
)
def test_what_is_no_reward_is_told_before_anything_is_spent(own, function, why):
    with pytest.raises(UserError, match=why):
        load_rewards([f"{own}:{function}"])
