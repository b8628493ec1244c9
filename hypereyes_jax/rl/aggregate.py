"""Mask-aware reduction of per-token losses."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.shape_checks import check_arrays


def aggregate(
    loss_BT: jax.Array,
    mask_BT: jax.Array,
    mode: Literal["sequence-mean", "token-mean"] = "sequence-mean",
    denominator: float | jax.Array | None = None,
) -> jax.Array:
    """Reduces a per-token loss to a scalar.

      sequence-mean: sum over sequences of (mean over the sequence's unmasked tokens), divided by `denominator`
      token-mean:    sum over all unmasked tokens, divided by `denominator`

    The default denominator is the number of sequences with an unmasked token, or the number of unmasked tokens. When a
    batch is split into micro-batches, pass that number of the whole batch: then the parts' results, and their
    gradients, add up to exactly the undivided one. A batch with nothing unmasked gives 0, with gradient 0.

    Args:
      loss_BT: [B, T] floating; masked positions are ignored, whatever they hold.
      mask_BT: [B, T] mask, 1 on tokens that count.
      mode: "sequence-mean" (each rollout weighs the same, the paper's) or "token-mean" (each token weighs the same).
      denominator: positive scalar, see above. The authors' published code divides by the full batch size, masked
        rollouts included.

    Returns:
      scalar, floating.

    Raises:
      ValueError, TypeError: shapes, dtypes or the mode do not fit.

    Source: sample mean of token means, authors' published code of arXiv 2605.07177; token mean, arXiv 2503.14476.
    """
    loss, mask = check_arrays("aggregate", loss_BT=(loss_BT, "BT", "float"), mask_BT=(mask_BT, "BT", "mask"))
    loss = jnp.where(mask, loss, 0.0)
    tokens_B = jnp.sum(mask, axis=1)
    if mode == "sequence-mean":
        total = jnp.sum(jnp.sum(loss, axis=1) / jnp.maximum(tokens_B, 1))
        count = jnp.sum(tokens_B > 0)
    elif mode == "token-mean":
        total = jnp.sum(loss)
        count = jnp.sum(tokens_B)
    else:
        raise ValueError(f'aggregate: mode must be "sequence-mean" or "token-mean", got {mode!r}.')
    return total / (jnp.maximum(count, 1) if denominator is None else denominator)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of the unmasked values, for metrics; 0 where nothing is unmasked.

    Args:
      values: real or bool; masked positions are ignored, whatever they hold.
      mask: bool, of the same shape.

    Returns:
      scalar, floating.
    """
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)
