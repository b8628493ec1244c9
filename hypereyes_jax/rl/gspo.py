"""Group sequence policy optimisation: one clipped ratio for a whole sequence."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.aggregate import masked_mean
from hypereyes_jax.rl.shape_checks import check_arrays

# exp(10) is 22,000: a mean log-ratio that large means that the weights are broken, whatever the clip.
_MAX_LOG_RATIO = 10.0


def gspo_loss(
    logp_BT: jax.Array,
    old_logp_BT: jax.Array,
    advantage_BT: jax.Array,
    mask_BT: jax.Array,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    sequence_BT: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the clipped policy loss whose ratio belongs to the sequence and not to the token, unreduced.

      s    = exp(mean over the sequence's tokens of (logp - old_logp))
      s_t  = stop(s) exp(logp_t - stop(logp_t))                            the value of s, the gradient of token t
      loss = max(-A s_t, -A clip(s_t, 1 - clip_low, 1 + clip_high))

    With `aggregate(..., "sequence-mean")` and an advantage that is constant in a sequence, the gradient is that of the
    sequence form -A s. Gradients flow through `logp_BT` only. Masked positions may hold anything, NaN included.

    Args:
      logp_BT: [B, T] floating, under the weights being trained.
      old_logp_BT: [B, T] floating, under the weights before this update.
      advantage_BT: [B, T] floating, a rollout's advantage repeated over its tokens.
      mask_BT: [B, T] mask, 1 on tokens that the model sampled.
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]. A sequence's ratio moves far less than
        a token's, so its published bounds are a thousand times narrower.
      sequence_BT: [B, T] integer in [0, T): which sequence of a packed row a token belongs to; None = a row is one.

    Returns:
      loss_BT: [B, T] floating, 0 where masked. Reduce it with `aggregate`.
      metrics: scalars over the unmasked tokens: `ratio` (mean), `approx_kl` (mean of old_logp - logp), `clip_fraction`.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: GSPO, arXiv 2507.18071, its token form (GSPO-token) and bounds.
    """
    logp, old_logp, advantage, mask, sequence = check_arrays(
        "gspo_loss",
        logp_BT=(logp_BT, "BT", "float"),
        old_logp_BT=(old_logp_BT, "BT", "float"),
        advantage_BT=(advantage_BT, "BT", "float"),
        mask_BT=(mask_BT, "BT", "mask"),
        sequence_BT=(sequence_BT, "BT", "int"),
    )
    logp = jnp.where(mask, logp, 0.0)
    old_logp = jax.lax.stop_gradient(jnp.where(mask, old_logp, 0.0))
    advantage = jax.lax.stop_gradient(jnp.where(mask, advantage, 0.0))
    if sequence is None:
        sequence = jnp.zeros(mask.shape, jnp.int32)

    stopped = jax.lax.stop_gradient(logp)
    log_ratio = stopped - old_logp
    log_s = jax.vmap(_sequence_mean)(log_ratio, mask, sequence)
    s = jnp.exp(jnp.minimum(logp - stopped + log_s, _MAX_LOG_RATIO))
    unclipped = -advantage * s
    clipped = -advantage * jnp.clip(s, 1.0 - clip_low, 1.0 + clip_high)
    metrics = {
        "ratio": masked_mean(s, mask),
        "approx_kl": masked_mean(-log_ratio, mask),
        "clip_fraction": masked_mean(clipped > unclipped, mask),
    }
    return jnp.where(mask, jnp.maximum(unclipped, clipped), 0.0), jax.lax.stop_gradient(metrics)


def _sequence_mean(values_T: jax.Array, mask_T: jax.Array, sequence_T: jax.Array) -> jax.Array:
    """Each token's value becomes the mean over the unmasked tokens of its sequence."""
    sums = jax.ops.segment_sum(jnp.where(mask_T, values_T, 0.0), sequence_T, values_T.size)
    counts = jax.ops.segment_sum(mask_T.astype(values_T.dtype), sequence_T, values_T.size)
    return (sums / jnp.maximum(counts, 1.0))[sequence_T]
