"""A penalty on the distance from a reference policy, estimated from sampled tokens."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.importance import MAX_LOG_RATIO
from hypereyes_jax.rl.shape_checks import check_arrays


def kl_penalty(
    logp_BT: jax.Array,
    reference_logp_BT: jax.Array,
    mask_BT: jax.Array,
    kind: Literal["k1", "k2", "k3"] = "k3",
) -> jax.Array:
    """Estimates KL(policy || reference) for each token, unreduced; add it to a loss, times a coefficient.

      d  = logp - reference_logp
      k1 = d                  unbiased, high variance, may be negative; as a loss its gradient is 0 on average
      k2 = d^2 / 2            biased, its gradient is the KL's
      k3 = exp(-d) - 1 + d    unbiased, never negative (GRPO's)

    Gradients flow through `logp_BT` only. With LoRA the reference is the same model without its adapters
    (`forward(params, config, inputs)`), so no second model is kept.

    Args:
      logp_BT: [B, T] floating, under the weights being trained.
      reference_logp_BT: [B, T] floating, under the reference.
      mask_BT: [B, T] mask, 1 on tokens that the model sampled. Masked positions may hold anything, NaN included.
      kind: which estimator.

    Returns:
      [B, T] floating, 0 where masked.

    Raises:
      ValueError, TypeError: shapes, dtypes or the kind do not fit.

    Source: k1 to k3, J. Schulman, "Approximating KL divergence" (2020); k3 in GRPO, arXiv 2402.03300, equation 4.
    """
    logp, reference_logp, mask = check_arrays(
        "kl_penalty",
        logp_BT=(logp_BT, "BT", "float"),
        reference_logp_BT=(reference_logp_BT, "BT", "float"),
        mask_BT=(mask_BT, "BT", "mask"),
    )
    d = jnp.where(mask, logp, 0.0) - jax.lax.stop_gradient(jnp.where(mask, reference_logp, 0.0))
    if kind == "k1":
        return d
    if kind == "k2":
        return d**2 / 2
    if kind == "k3":
        bounded = jnp.clip(d, -MAX_LOG_RATIO, MAX_LOG_RATIO)
        return jnp.expm1(-bounded) + bounded
    raise ValueError(f'kl_penalty: kind must be "k1", "k2" or "k3", got {kind!r}.')
