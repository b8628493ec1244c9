import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax import rl

group_relative_advantage = jax.jit(rl.group_relative_advantage)


def test_group_of_three_by_hand():
    # mean 1, deviations -1, 0, 1, unbiased std 1
    np.testing.assert_allclose(group_relative_advantage(jnp.array([0.0, 1.0, 2.0]), eps=0.0), [-1, 0, 1], atol=1e-7)


def test_the_standard_deviation_is_the_unbiased_one():
    # std (n - 1) of 0, 1 is sqrt(1/2): the biased one would give -1, 1
    np.testing.assert_allclose(group_relative_advantage(jnp.array([0.0, 1.0])), [-0.70711, 0.70711], atol=1e-5)


@pytest.mark.parametrize("rewards", [[0.7], [1.2] * 8, [0.1 + 0.2] * 7, [-0.5, -0.5]])
def test_a_group_without_a_ranking_gives_exact_zeros(rewards):
    assert not np.any(group_relative_advantage(np.array(rewards, np.float32)))


@pytest.mark.parametrize("valid", [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], ids=str)
def test_fewer_than_two_different_valid_rollouts_give_zeros(valid):
    assert not np.any(group_relative_advantage(np.array([1.0, 1.0, 0.0, 5.0]), np.array(valid)))


def test_invalid_rollouts_are_left_out_even_when_not_a_number():
    rewards = np.array([0.0, np.nan, 1.0, np.inf, 2.0], np.float32)
    advantage = group_relative_advantage(rewards, np.isfinite(rewards))
    np.testing.assert_allclose(advantage, [-1, 0, 0, 0, 1], atol=1e-5)


@pytest.mark.parametrize("rewards", [[1.0, 1.0, 1.0], [1.0, 2.0, np.nan], [np.nan] * 3, [0.0, 1.0, 2.0]], ids=str)
def test_gradients_are_finite(rewards):
    rewards = np.array(rewards, np.float32)
    weights = jnp.array([1.0, -2.0, 0.5])
    gradient = jax.grad(lambda r: jnp.sum(weights * group_relative_advantage(r, np.isfinite(rewards))))(rewards)
    assert np.all(np.isfinite(gradient))


def test_groups_on_leading_axes_are_independent():
    rewards = np.random.default_rng(0).normal(size=(3, 2, 8)).astype(np.float32)
    batched = group_relative_advantage(rewards)
    np.testing.assert_allclose(batched[2, 1], group_relative_advantage(rewards[2, 1]), atol=1e-6)
    np.testing.assert_allclose(np.mean(batched, -1), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(batched, -1, ddof=1), 1, atol=1e-5)


def test_a_misfitting_mask_is_named():
    with pytest.raises(ValueError, match="axis G of valid"):
        group_relative_advantage(np.ones(4), np.ones(3))


def test_eps_is_added_to_the_standard_deviation():
    # rewards 1 and 0: mean 0.5, unbiased std 0.70711; (1 - 0.5) / (0.70711 + 1)
    np.testing.assert_allclose(group_relative_advantage(jnp.array([1.0, 0.0]), eps=1.0), [0.29289, -0.29289], atol=1e-5)
