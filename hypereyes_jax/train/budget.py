"""A budget for what rollouts spend: prices that a training step sets from what the last ones spent.

A price is a multiplier that follows dual ascent plus a term in proportion to the present excess: the PI controller of
A. Stooke, J. Achiam, P. Abbeel, "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods" (arXiv
2007.03964). The multiplier alone is an integral of the excess, and swings about the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from hypereyes_jax.configs.reward import BudgetConfig
from hypereyes_jax.learner.experience import Experience
from hypereyes_jax.learner.spending import mean_spending
from hypereyes_jax.rl.budget import updated_prices


class BudgetController:
    """The prices of a run. Of several processes each has one, and all are alike: they are told the same groups.

    Prices begin at 0, so that a budget that does not bind changes nothing.
    """

    def __init__(self, config: BudgetConfig):
        """Raises UserError for targets that are not positive numbers."""
        self._config, self._target = config, config.target()
        self.prices: dict[str, float] = dict.fromkeys(self._target, 0.0)
        """In force, reward units a unit, by resource."""
        self._multipliers = dict(self.prices)
        self._smoothed: dict[str, float] = {}  # mean spending of the last steps; empty before the first

    def update(self, groups: Sequence[Experience]) -> dict[str, float]:
        """Sets the prices of the next step from the groups of this one.

        Returns:
          Figures for the log: `spent_NAME`, the mean over the valid rollouts, `price_NAME`, which they paid, and
          `target_NAME`. Nothing without targets. A step without a valid rollout leaves the prices as they are.
        """
        if not self._target:
            return {}
        costs = [each for group in groups for each, valid in zip(group.spent, group.valid_G, strict=True) if valid]
        mean, names = mean_spending(costs, list(self._target)), list(self._target)
        figures = {f"spent_{name}": mean[name] for name in names}
        figures |= {f"price_{name}": self.prices[name] for name in names}
        figures |= {f"target_{name}": self._target[name] for name in names}
        if costs:
            weight = self._config.smoothing if self._smoothed else 0.0
            self._smoothed = {
                name: weight * self._smoothed.get(name, 0.0) + (1 - weight) * mean[name] for name in names
            }
            self._multipliers = self._raised(self._multipliers, mean, self._config.rate)
            self.prices = self._raised(self._multipliers, self._smoothed, self._config.gain)
        return figures

    def _raised(self, prices: Mapping[str, float], spending: Mapping[str, float], rate: float) -> dict[str, float]:
        price_K, spent_K, target_K = (
            jnp.asarray([each[name] for name in self._target], jnp.float32) for each in (prices, spending, self._target)
        )
        raised = updated_prices(price_K, spent_K, target_K, rate, self._config.highest)
        return dict(zip(self._target, np.asarray(raised).tolist(), strict=True))

    def state(self) -> dict[str, dict[str, float]]:
        """What a checkpoint keeps."""
        return {"prices": self.prices, "multipliers": self._multipliers, "smoothed": self._smoothed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave. Targets that are new begin without a price."""
        prices, multipliers, smoothed = (state.get(name, {}) for name in ("prices", "multipliers", "smoothed"))
        self.prices = {name: float(prices.get(name, 0.0)) for name in self._target}
        self._multipliers = {name: float(multipliers.get(name, 0.0)) for name in self._target}
        self._smoothed = {name: float(smoothed.get(name, self._target[name])) for name in self._target if smoothed}
