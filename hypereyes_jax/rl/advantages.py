"""Group-relative advantages: GRPO's, and Dr. GRPO's without the division."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.dynamic_sampling import informative_groups
from hypereyes_jax.rl.shape_checks import check_arrays


def group_relative_advantage(rewards: jax.Array, valid: jax.Array | None = None, eps: float = 1e-6) -> jax.Array:
    """Normalises rewards within each group: (R - mean) / (std + eps), over the last axis.

    The standard deviation is the unbiased one (divided by n - 1), over the valid rollouts only. A group with fewer than
    two valid rollouts, or whose valid rewards are all equal, has no ranking to learn from and gets exact zeros (by
    arithmetic alone, rounding noise in the mean divided by eps would be a large advantage). Gradients are finite
    everywhere.

    Args:
      rewards: [..., G] real.
      valid: [..., G] mask, optional; 0 leaves a rollout out of mean and std and gives it 0. Its reward may be NaN.
      eps: added to the standard deviation, in reward units.

    Returns:
      [..., G] floating advantages.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: GRPO, arXiv 2402.03300, as used in arXiv 2605.07177.
    """
    rewards, keep = check_arrays(
        "group_relative_advantage", rewards=(rewards, "*G", "real"), valid=(valid, "*G", "mask")
    )
    if keep is None:
        keep = jnp.ones(rewards.shape, bool)

    count = jnp.sum(keep, axis=-1, keepdims=True)
    safe = jnp.where(keep, rewards, 0.0)
    mean = jnp.sum(safe, axis=-1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(keep, safe - mean, 0.0)
    informative = informative_groups(rewards, keep)[..., None]
    variance = jnp.sum(centred**2, axis=-1, keepdims=True) / jnp.maximum(count - 1, 1)
    # The square root's slope at 0 is infinite: it never sees the variance of a group that is switched off.
    std = jnp.sqrt(jnp.where(informative, variance, 1.0))
    return jnp.where(informative, centred / (std + eps), 0.0)


def group_centred_advantage(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Subtracts each group's mean reward, over the last axis, and divides by nothing.

    GRPO's division by the standard deviation weighs questions that nearly all or nearly no rollouts solve more than the
    others. With `aggregate(..., "token-mean", denominator=rollouts * longest)` the division by a rollout's length is
    gone as well: this is Dr. GRPO.

    Args:
      rewards: [..., G] real.
      valid: [..., G] mask, optional; 0 leaves a rollout out of the mean and gives it 0. Its reward may be NaN.

    Returns:
      [..., G] floating advantages; a group with fewer than two valid rollouts has exact zeros.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: Dr. GRPO, arXiv 2503.20783, section 3.2.
    """
    rewards, keep = check_arrays(
        "group_centred_advantage", rewards=(rewards, "*G", "real"), valid=(valid, "*G", "mask")
    )
    if keep is None:
        keep = jnp.ones(rewards.shape, bool)
    count = jnp.sum(keep, axis=-1, keepdims=True)
    safe = jnp.where(keep, rewards, 0.0)
    mean = jnp.sum(safe, axis=-1, keepdims=True) / jnp.maximum(count, 1)
    return jnp.where(keep & (count > 1), safe - mean, 0.0)
