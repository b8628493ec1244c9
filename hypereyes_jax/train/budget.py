"""A budget for what rollouts spend: prices that a training step sets from what the last one spent."""

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

    def update(self, groups: Sequence[Experience]) -> dict[str, float]:
        """Sets the prices of the next step from the groups of this one.

        Returns:
          Figures for the log: `spent_NAME`, the mean over the valid rollouts, `price_NAME`, which they paid, and
          `target_NAME`. Nothing without targets. A step without a valid rollout leaves the prices as they are.
        """
        if not self._target:
            return {}
        spent = [each for group in groups for each, valid in zip(group.spent, group.valid_G, strict=True) if valid]
        mean, names = mean_spending(spent, list(self._target)), list(self._target)
        figures = {f"spent_{name}": mean[name] for name in names}
        figures |= {f"price_{name}": self.prices[name] for name in names}
        figures |= {f"target_{name}": self._target[name] for name in names}
        if spent:
            prices = updated_prices(
                jnp.asarray([self.prices[name] for name in names], jnp.float32),
                jnp.asarray([mean[name] for name in names], jnp.float32),
                jnp.asarray([self._target[name] for name in names], jnp.float32),
                self._config.rate,
                self._config.highest,
            )
            self.prices = dict(zip(names, np.asarray(prices).tolist(), strict=True))
        return figures

    def state(self) -> dict[str, float]:
        """The prices as a checkpoint keeps them."""
        return dict(self.prices)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes the prices that `state` gave."""
        self.prices = {name: float(state.get(name, 0.0)) for name in self._target}
