import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.rl import aggregate

LOSS = jnp.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 0.0, 0.0], [7.0, 7.0, 7.0, 7.0]])
MASK = jnp.array([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]])


def test_both_modes_by_hand():
    assert aggregate(LOSS, MASK) == pytest.approx((2.5 + 20) / 2)  # the masked row is no sequence
    assert aggregate(LOSS, MASK, "token-mean") == pytest.approx((10 + 20) / 5)
    assert aggregate(LOSS, MASK, denominator=3) == pytest.approx(22.5 / 3)


@pytest.mark.parametrize("mode", ["sequence-mean", "token-mean"])
def test_an_all_masked_batch_gives_zero_and_no_gradient(mode):
    value, gradient = jax.value_and_grad(lambda x: aggregate(x, jnp.zeros((3, 4)), mode))(LOSS * jnp.nan)
    assert value == 0
    assert not np.any(gradient)


@pytest.mark.parametrize(("mode", "denominator"), [("sequence-mean", 2), ("token-mean", 5)])
def test_micro_batches_with_the_whole_batch_s_denominator_add_up_exactly(mode, denominator):
    whole = jax.value_and_grad(lambda x: aggregate(x, MASK, mode))(LOSS)
    parts = [
        jax.value_and_grad(lambda x, i=i: aggregate(x[i : i + 1], MASK[i : i + 1], mode, denominator))(LOSS)
        for i in range(3)
    ]
    assert sum(value for value, _ in parts) == pytest.approx(float(whole[0]), rel=1e-6)
    np.testing.assert_allclose(sum(gradient for _, gradient in parts), whole[1], rtol=1e-6)


def test_masked_nan_is_ignored():
    value, gradient = jax.value_and_grad(lambda x: aggregate(x, MASK))(jnp.where(MASK == 1, LOSS, jnp.nan))
    assert value == pytest.approx(11.25)
    assert np.all(np.isfinite(gradient))


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match=r"sequence-mean.*got 'mean'"):
        aggregate(LOSS, MASK, "mean")
