"""The clipped policy-gradient loss, with dual clip and truncated importance sampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.aggregate import masked_mean
from hypereyes_jax.rl.importance import MAX_LOG_RATIO, truncated_importance_weight
from hypereyes_jax.rl.shape_checks import check_arrays


def policy_loss(
    logp_BT: jax.Array,
    old_logp_BT: jax.Array,
    advantage_BT: jax.Array,
    mask_BT: jax.Array,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = 3.0,
    sampler_logp_BT: jax.Array | None = None,
    tis_cap: float = 2.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the per-token clipped policy loss, unreduced.

      r    = exp(logp - old_logp)
      loss = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high));  if A < 0: min(loss, -A dual_clip)
      loss = loss * min(exp(old_logp - sampler_logp), tis_cap)      if sampler_logp is given

    Gradients flow through `logp_BT` only. Log-probs are natural logs, all at the same temperature. Masked positions may
    hold anything, NaN included: they give 0 and no gradient.

    Args:
      logp_BT: [B, T] floating, under the weights being trained.
      old_logp_BT: [B, T] floating, under the weights before this update, recomputed by the learner.
      advantage_BT: [B, T] floating; a rollout's advantage repeated over its tokens, distillation terms included.
      mask_BT: [B, T] mask, 1 on tokens that the model sampled, 0 on prompt, observations and padding.
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
      dual_clip: bound on the loss of a token with negative advantage, in units of |A|; > 1, or None for no bound.
      sampler_logp_BT: [B, T] floating, under the distribution that the rollout engine really sampled from, for
        `truncated_importance_weight`; None: no correction. A token of which an engine does not tell it (NaN) is not
        corrected, either.
      tis_cap: upper bound of the importance weight of the engine against the learner, > 0.

    Returns:
      loss_BT: [B, T] floating, 0 where masked. Reduce it with `aggregate`.
      metrics: scalars over the unmasked tokens: `ratio` (mean), `approx_kl` (mean of old_logp - logp), `clip_fraction`,
        `dual_clip_fraction`; with sampler log-probs also `tis_weight` (mean) and `tis_capped_fraction`.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit, or a bound makes no sense.

    Source: PPO clip, arXiv 1707.06347; clip-higher, arXiv 2503.14476; dual clip, arXiv 1912.09729; values of arXiv
    2605.07177.
    """
    logp, old_logp, advantage, mask, sampler_logp = check_arrays(
        "policy_loss",
        logp_BT=(logp_BT, "BT", "float"),
        old_logp_BT=(old_logp_BT, "BT", "float"),
        advantage_BT=(advantage_BT, "BT", "float"),
        mask_BT=(mask_BT, "BT", "mask"),
        sampler_logp_BT=(sampler_logp_BT, "BT", "float"),
    )
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"policy_loss: dual_clip must be > 1 (or None), got {dual_clip}.")
    # Masked positions are replaced before the arithmetic, so that their NaNs reach neither the loss nor its gradient.
    logp = jnp.where(mask, logp, 0.0)
    old_logp = jax.lax.stop_gradient(jnp.where(mask, old_logp, 0.0))
    advantage = jax.lax.stop_gradient(jnp.where(mask, advantage, 0.0))

    log_ratio = jnp.clip(logp - old_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = jnp.exp(log_ratio)
    unclipped = -advantage * ratio
    clipped = -advantage * jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    loss = jnp.maximum(unclipped, clipped)
    metrics = {
        "ratio": masked_mean(ratio, mask),
        "approx_kl": masked_mean(-log_ratio, mask),
        "clip_fraction": masked_mean(clipped > unclipped, mask),
    }
    if dual_clip is not None:
        bound = -advantage * dual_clip
        metrics["dual_clip_fraction"] = masked_mean((advantage < 0) & (loss > bound), mask)
        loss = jnp.where(advantage < 0, jnp.minimum(loss, bound), loss)
    if sampler_logp is not None:
        weight, weight_metrics = truncated_importance_weight(old_logp, sampler_logp, mask, tis_cap)
        metrics |= weight_metrics
        loss = loss * weight
    return jnp.where(mask, loss, 0.0), jax.lax.stop_gradient(metrics)
