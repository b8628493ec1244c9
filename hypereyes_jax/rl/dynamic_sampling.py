"""Dynamic sampling: which groups of rollouts a step can learn from."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.shape_checks import check_arrays


def informative_groups(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Tells which groups have two valid rollouts with different rewards.

    `group_relative_advantage` gives the others 0 throughout: they cost a step its time and teach nothing. A trainer
    that samples dynamically asks for further questions until a step is full of groups that are True here.

    Args:
      rewards: [..., G] real.
      valid: [..., G] mask, optional; 0 leaves a rollout out. Its reward may be NaN.

    Returns:
      [...] bool.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: dynamic sampling of DAPO, arXiv 2503.14476, section 3.2.
    """
    rewards, keep = check_arrays("informative_groups", rewards=(rewards, "*G", "real"), valid=(valid, "*G", "mask"))
    if keep is None:
        keep = jnp.ones(rewards.shape, bool)
    low = jnp.min(jnp.where(keep, rewards, jnp.inf), axis=-1)
    high = jnp.max(jnp.where(keep, rewards, -jnp.inf), axis=-1)
    return (jnp.sum(keep, axis=-1) > 1) & (high > low)
