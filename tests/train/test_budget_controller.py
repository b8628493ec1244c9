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
    budget = BudgetController(BudgetConfig(targets=("image_search=2",), rate=0.1))
    figures = budget.update([group([4, 4, 100], [True, True, False]), group([4], [True])])
    assert figures == {"spent_image_search": 4.0, "price_image_search": 0.0, "target_image_search": 2.0}
    assert budget.prices["image_search"] == pytest.approx(0.1)
    figures = budget.update([group([1], [True])])
    assert figures["price_image_search"] == pytest.approx(0.1)  # what these rollouts paid
    assert budget.prices["image_search"] == pytest.approx(0.05)


def test_prices_are_bounded_go_with_a_checkpoint_and_survive_an_outage():
    budget = BudgetController(BudgetConfig(targets=("image_search=1",), rate=9.0, highest=0.4))
    budget.update([group([5], [True])])
    assert budget.prices == {"image_search": pytest.approx(0.4)}
    budget.update([group([5], [False])])
    assert budget.prices == {"image_search": pytest.approx(0.4)}
    again = BudgetController(BudgetConfig(targets=("image_search=1",)))
    again.restore(budget.state())
    assert again.prices == budget.prices


def test_without_targets_nothing_is_priced_or_told():
    budget = BudgetController(BudgetConfig())
    assert budget.update([group([5], [True])]) == {}
    assert budget.prices == {}
