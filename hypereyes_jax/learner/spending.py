"""What a rollout spent: rounds, invocations of each tool, tokens, seconds. Prices are of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from hypereyes_jax.rl.budget import spending_cost
from hypereyes_jax.rollout.types import Trajectory

Spending = Mapping[str, float]  # by resource: `configs.reward.RESOURCES`, and invocations by the name of each tool


def spending(trajectory: Trajectory) -> dict[str, float]:
    """What a rollout spent. A tool that was not called is left out.

    The searches that count are those really sent; of a tool that is not a search, each call counts.
    """
    result = trajectory.result
    called = [call for turn in result.turns for call in turn.invocations]
    searches = Counter(call.tool for call in called if call.sent or not call.error)
    return {
        "rounds": float(result.rounds),
        "searches": float(result.invocations),
        "kilotokens_read": trajectory.context_tokens / 1000,
        "kilotokens_written": trajectory.sampled_tokens / 1000,
        "seconds": trajectory.seconds,
        **{name: float(count) for name, count in searches.items()},
    }


def cost(spent: Sequence[Spending], prices: Mapping[str, float]) -> np.ndarray:
    """What each rollout pays, float32 [G]: the sum of spending times price."""
    if not prices:
        return np.zeros(len(spent), np.float32)
    spending_GK = np.array([[each.get(name, 0.0) for name in prices] for each in spent], np.float32)
    return np.asarray(spending_cost(jnp.asarray(spending_GK), jnp.asarray(list(prices.values()), jnp.float32)))


def mean_spending(spent: Sequence[Spending], names: Sequence[str]) -> dict[str, float]:
    """The mean over rollouts of each resource that is named; 0 without a rollout."""
    return {name: sum(each.get(name, 0.0) for each in spent) / max(len(spent), 1) for name in names}
