"""Soft punishment of answers that come close to the length limit."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.shape_checks import check_arrays


def overlong_penalty(
    length: jax.Array, limit: int | jax.Array, buffer: int | jax.Array, scale: float | jax.Array = 1.0
) -> jax.Array:
    """Computes -scale * clip((length - (limit - buffer)) / buffer, 0, 1): add it to a rollout's reward.

    Nothing up to `limit - buffer` tokens, then linear, -scale from `limit` on.

    Args:
      length: [...] real, tokens that the model wrote in a rollout.
      limit: scalar, tokens at which a rollout is cut.
      buffer: scalar, tokens before the limit over which the punishment grows; > 0.
      scale: scalar, reward units.

    Returns:
      [...] floating, in [-scale, 0].

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit, or the buffer is not positive.

    Source: soft overlong punishment of DAPO, arXiv 2503.14476, equation 13.
    """
    if isinstance(buffer, int) and buffer <= 0:
        raise ValueError(f"overlong_penalty: buffer must be positive, got {buffer}.")
    length, limit, buffer, scale = check_arrays(
        "overlong_penalty",
        length=(length, "*", "real"),
        limit=(limit, "", "real"),
        buffer=(buffer, "", "real"),
        scale=(scale, "", "real"),
    )
    return -scale * jnp.clip((length - (limit - buffer)) / buffer, 0.0, 1.0)
