"""Truncated importance sampling: the sampler's distribution against the learner's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.aggregate import masked_mean
from hypereyes_jax.rl.shape_checks import check_arrays

# exp(20) is 5e8: beyond that a ratio of probabilities only overflows; every clip of this folder has long taken effect.
MAX_LOG_RATIO = 20.0


def truncated_importance_weight(
    old_logp_BT: jax.Array, sampler_logp_BT: jax.Array, mask_BT: jax.Array, cap: float = 2.0
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes min(exp(old_logp - sampler_logp), cap) for each token, to multiply any per-token loss with.

    `policy_loss` calls it where it is given `sampler_logp_BT`; the other losses of this folder, and a user's own, are
    multiplied with the weight by hand. The weight is a constant of the update: it has no gradient.

    Args:
      old_logp_BT: [B, T] floating, under the learner's weights before this update.
      sampler_logp_BT: [B, T] floating, under the distribution that the rollout engine really sampled from. Where an
        engine does not tell it (NaN), the weight is 1.
      mask_BT: [B, T] mask, 1 on tokens that the model sampled. Masked positions may hold anything, NaN included.
      cap: upper bound of the weight, > 0.

    Returns:
      weight_BT: [B, T] floating, 1 where masked.
      metrics: scalars over the unmasked tokens, `tis_weight` (mean) and `tis_capped_fraction`.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit, or the cap is not positive.

    Source: truncated importance sampling as in arXiv 2605.07177, with a cap of 2.
    """
    old_logp, sampler_logp, mask = check_arrays(
        "truncated_importance_weight",
        old_logp_BT=(old_logp_BT, "BT", "float"),
        sampler_logp_BT=(sampler_logp_BT, "BT", "float"),
        mask_BT=(mask_BT, "BT", "mask"),
    )
    if not cap > 0:
        raise ValueError(f"truncated_importance_weight: cap must be positive, got {cap}.")
    usable = mask & jnp.isfinite(sampler_logp)
    gap = jnp.where(usable, old_logp, 0.0) - jnp.where(usable, sampler_logp, 0.0)
    raw = jnp.exp(jnp.clip(gap, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    weight = jnp.minimum(raw, cap)
    metrics = {"tis_weight": masked_mean(weight, mask), "tis_capped_fraction": masked_mean(raw > cap, mask)}
    return jax.lax.stop_gradient((jnp.where(mask, weight, 1.0), metrics))
