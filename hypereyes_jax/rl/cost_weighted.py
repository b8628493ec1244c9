"""The plain weighted-sum reward, for comparison with TRACE."""

from __future__ import annotations

import jax

from hypereyes_jax.rl.shape_checks import check_arrays


def cost_weighted_reward(
    effectiveness: jax.Array, cost: jax.Array, alpha: float | jax.Array, beta: float | jax.Array
) -> jax.Array:
    """Computes alpha * effectiveness - beta * cost, elementwise.

    It knows no reference: a search costs the same whether or not the question needed it. TRACE is the method's own
    reward; this one stands beside it so that the two can be compared.

    Args:
      effectiveness: [...] real, e.g. accuracy in {0, 1}.
      cost: [...] real of the same shape, e.g. rounds or invocations; its unit is the inverse of beta's.
      alpha: scalar weight of the effectiveness.
      beta: scalar weight of the cost, >= 0 for a cost that hurts.

    Returns:
      [...] floating reward.

    Raises:
      ValueError, TypeError: the shapes differ, or a dtype is not real.

    Source: a second public description of the system; it is not part of arXiv 2605.07177.
    """
    effectiveness, cost, alpha, beta = check_arrays(
        "cost_weighted_reward",
        effectiveness=(effectiveness, "*", "real"),
        cost=(cost, "*", "real"),
        alpha=(alpha, "", "real"),
        beta=(beta, "", "real"),
    )
    return alpha * effectiveness - beta * cost
