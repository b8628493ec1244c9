"""Advantages by name and of a user's own."""

import numpy as np
import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.advantage import chosen_advantage, load_advantage

REWARDS, VALID = np.array([1.0, 0.0, 0.0, 9.0], np.float32), np.array([True, True, True, False])


def test_the_shipped_ones_by_hand():
    # mean 1/3, unbiased variance 1/3
    np.testing.assert_allclose(
        chosen_advantage("group-relative")(REWARDS, VALID), [2 / 3**0.5, -1 / 3**0.5, -1 / 3**0.5, 0], rtol=1e-5
    )
    np.testing.assert_allclose(chosen_advantage("group-centred")(REWARDS, VALID), [2 / 3, -1 / 3, -1 / 3, 0], rtol=1e-6)


def test_one_s_own_is_called_with_what_is_valid_and_masked(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def best(rewards, valid):\n    return rewards - rewards[valid].max()\n")
    advantage = chosen_advantage(f"{own}:best")
    np.testing.assert_array_equal(advantage(REWARDS, VALID), [0, -1, -1, 0])


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda rewards: rewards, "positional argument"),
        (lambda rewards, valid: rewards[:2], "shape"),
        (lambda rewards, valid: rewards / 0, "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_what_is_none_is_told(function, why):
    with pytest.raises(UserError, match=why):
        load_advantage(function)


def test_an_unknown_name_is_told_what_there_is():
    with pytest.raises(UserError, match="group-relative, group-centred"):
        chosen_advantage("gae")
