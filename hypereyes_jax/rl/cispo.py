"""CISPO: the importance weight is clipped, and no token loses its gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.aggregate import masked_mean
from hypereyes_jax.rl.importance import MAX_LOG_RATIO
from hypereyes_jax.rl.shape_checks import check_arrays


def cispo_loss(
    logp_BT: jax.Array,
    old_logp_BT: jax.Array,
    advantage_BT: jax.Array,
    mask_BT: jax.Array,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the REINFORCE loss with a clipped, constant importance weight for each token, unreduced.

      w    = clip(exp(logp - old_logp), 1 - clip_low, 1 + clip_high)
      loss = -stop(w) A logp

    Where PPO's clip takes a token's gradient away, this one only bounds its weight. Gradients flow through `logp_BT`
    only. Masked positions may hold anything, NaN included: they give 0 and no gradient.

    Args:
      logp_BT: [B, T] floating, under the weights being trained.
      old_logp_BT: [B, T] floating, under the weights before this update.
      advantage_BT: [B, T] floating, a rollout's advantage repeated over its tokens.
      mask_BT: [B, T] mask, 1 on tokens that the model sampled.
      clip_low, clip_high: the weight is clipped to [1 - clip_low, 1 + clip_high]; `clip_low=1` sets no lower bound.

    Returns:
      loss_BT: [B, T] floating, 0 where masked. Reduce it with `aggregate(..., "token-mean")`.
      metrics: scalars over the unmasked tokens: `ratio` (mean), `approx_kl` (mean of old_logp - logp), `clip_fraction`.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: CISPO, arXiv 2506.13585, equation 4; upper bound only, as its authors use it. Their value is not published:
    5 (`clip_high=4`) is a common choice of later work.
    """
    logp, old_logp, advantage, mask = check_arrays(
        "cispo_loss",
        logp_BT=(logp_BT, "BT", "float"),
        old_logp_BT=(old_logp_BT, "BT", "float"),
        advantage_BT=(advantage_BT, "BT", "float"),
        mask_BT=(mask_BT, "BT", "mask"),
    )
    logp = jnp.where(mask, logp, 0.0)
    old_logp = jnp.where(mask, old_logp, 0.0)
    advantage = jax.lax.stop_gradient(jnp.where(mask, advantage, 0.0))
    log_ratio = jax.lax.stop_gradient(jnp.clip(logp - old_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    ratio = jnp.exp(log_ratio)
    weight = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    metrics = {
        "ratio": masked_mean(ratio, mask),
        "approx_kl": masked_mean(-log_ratio, mask),
        "clip_fraction": masked_mean(weight != ratio, mask),
    }
    return jnp.where(mask, -weight * advantage * logp, 0.0), jax.lax.stop_gradient(metrics)
