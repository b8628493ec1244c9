"""The budget of a run: prices that follow what rollouts spend."""

import numpy as np
import pytest

from hypereyes_jax.configs.reward import BudgetConfig
from hypereyes_jax.learner.experience import Experience
from hypereyes_jax.train.budget import BudgetController


def group(spent, valid):
    zeros = np.zeros(len(spent), np.float32)
    counts = np.zeros(len(spent), np.int32)
    return Experience(
        (), zeros, np.array(valid), counts, counts, zeros, zeros, zeros, zeros, ~np.array(valid),
        spent=tuple({"image_search": float(each)} for each in spent),
    )  # fmt: skip


def test_a_price_rises_above_the_target_and_falls_below_it_over_valid_rollouts_only():
    budget = BudgetController(BudgetConfig(targets=("image_search=2",), rate=0.1, gain=0.0))
    figures = budget.update([group([4, 4, 100], [True, True, False]), group([4], [True])])
    assert figures == {"spent_image_search": 4.0, "price_image_search": 0.0, "target_image_search": 2.0}
    assert budget.prices["image_search"] == pytest.approx(0.1)
    figures = budget.update([group([1], [True])])
    assert figures["price_image_search"] == pytest.approx(0.1)  # what these rollouts paid
    assert budget.prices["image_search"] == pytest.approx(0.05)


def test_a_price_has_a_part_in_proportion_to_the_smoothed_excess():
    budget = BudgetController(BudgetConfig(targets=("image_search=2",), rate=0.1, gain=0.4, smoothing=0.75))
    budget.update([group([6], [True])])
    assert budget.prices["image_search"] == pytest.approx(0.1 * 2 + 0.4 * 2)
    budget.update([group([2], [True])])  # smoothed 0.75 * 6 + 0.25 * 2 = 5
    assert budget.prices["image_search"] == pytest.approx(0.2 + 0.4 * 1.5)
    budget.update([group([1], [True])])  # smoothed 4; the multiplier 0.2 - 0.1 * 0.5
    assert budget.prices["image_search"] == pytest.approx(0.15 + 0.4 * 1.0)


def test_a_policy_that_follows_slowly_is_brought_to_its_target_without_swinging():
    """A made-up policy that goes a tenth of the way, each step, to what a price would have it spend."""

    def spent(gain):
        budget = BudgetController(BudgetConfig(targets=("image_search=2",), rate=0.05, gain=gain, smoothing=0.5))
        spending = [4.0]
        for _ in range(150):
            budget.update([group([spending[-1]], [True])])
            spending.append(spending[-1] + 0.1 * (4 - 8 * budget.prices["image_search"] - spending[-1]))
        return spending

    damped, swinging = spent(0.5), spent(0.0)
    assert damped[-1] == pytest.approx(2.0, abs=0.02)
    assert min(damped) > 1.95
    assert min(swinging) < 1.8


def test_prices_are_bounded_go_with_a_checkpoint_and_survive_an_outage():
    config = BudgetConfig(targets=("image_search=1",), rate=9.0, highest=0.4)
    budget = BudgetController(config)
    budget.update([group([5], [True])])
    assert budget.prices == {"image_search": pytest.approx(0.4)}
    budget.update([group([5], [False])])
    assert budget.prices == {"image_search": pytest.approx(0.4)}
    again = BudgetController(config)
    again.restore(budget.state())
    for _ in range(3):  # it goes on as the first
        assert again.prices == budget.prices
        assert again.update([group([0.8], [True])]) == budget.update([group([0.8], [True])])


def test_without_targets_nothing_is_priced_or_told():
    budget = BudgetController(BudgetConfig())
    assert budget.update([group([5], [True])]) == {}
    assert budget.prices == {}
