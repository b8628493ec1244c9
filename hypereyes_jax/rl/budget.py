"""A budget for searches: prices that rise where more is spent than wanted, and fall where less is."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.shape_checks import check_arrays


def spending_cost(spending: jax.Array, prices_K: jax.Array) -> jax.Array:
    """Computes what each rollout pays: the sum over resources of spending times price.

    Args:
      spending: [..., K] real, how much of each resource a rollout used (image searches, text searches, rounds,
        thousands of tokens, seconds, ...).
      prices_K: [K] floating, reward units for one unit of each resource.

    Returns:
      [...] floating, the `cost` of `cost_weighted_reward` with beta = 1.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: the cost term of alpha * effectiveness - beta * cost, with one beta for each resource.
    """
    spending, prices = check_arrays(
        "spending_cost", spending=(spending, "*K", "real"), prices_K=(prices_K, "K", "float")
    )
    return jnp.sum(spending * prices, axis=-1)


def updated_prices(
    prices_K: jax.Array,
    mean_spending_K: jax.Array,
    target_K: jax.Array,
    rate: float | jax.Array = 0.05,
    highest: float | jax.Array = 1.0,
) -> jax.Array:
    """Takes one step of dual ascent: clip(price + rate (spending - target) / target, 0, highest).

    For "maximise effectiveness with a mean spending of at most `target`", a price is the multiplier of its constraint
    and the excess over the target is its gradient. A constraint that does not bind ends at price 0. Call it once a
    training step with the step's mean over rollouts; keep the prices with the checkpoint.

    Args:
      prices_K: [K] floating, >= 0, reward units for one unit of each resource.
      mean_spending_K: [K] real, mean over the step's valid rollouts.
      target_K: [K] real, > 0; infinity = no limit on that resource (its price falls to 0).
      rate: scalar, reward units by which a price rises when spending is twice its target.
      highest: scalar, upper bound of a price: no resource may outweigh a right answer for ever.

    Returns:
      [K] floating.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: projected dual (sub)gradient ascent for a constrained problem, S. Boyd and L. Vandenberghe, "Convex
    Optimization", chapter 5.
    """
    prices, spending, target, rate, highest = check_arrays(
        "updated_prices",
        prices_K=(prices_K, "K", "float"),
        mean_spending_K=(mean_spending_K, "K", "real"),
        target_K=(target_K, "K", "real"),
        rate=(rate, "", "real"),
        highest=(highest, "", "real"),
    )
    # spending / target - 1, and not (spending - target) / target: with no limit it is -1 and not NaN
    return jnp.clip(prices + rate * (spending / target - 1.0), 0.0, highest)
