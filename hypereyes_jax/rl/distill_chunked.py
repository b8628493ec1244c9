"""The full-vocabulary reverse KL from hidden states, a few tokens at a time: the [B, T, V] logits are never built."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.distill import reverse_kl
from hypereyes_jax.rl.shape_checks import check_arrays


def chunked_reverse_kl(
    student_BTD: jax.Array,
    student_head_DV: jax.Array,
    teacher_BTE: jax.Array,
    teacher_head_EV: jax.Array,
    mask_BT: jax.Array,
    temperature: float = 1.0,
    chunk: int = 256,
) -> jax.Array:
    """`reverse_kl(student @ head / temperature, teacher @ head / temperature, mask)`, recomputing logits backwards.

    Args:
      student_BTD, teacher_BTE: [B, T, D] and [B, T, E] floating, hidden states after the final norm; widths may differ.
      student_head_DV, teacher_head_EV: heads over the same vocabulary. The teacher gets no gradient.
      mask_BT: [B, T] mask. Chunks without an unmasked token are skipped.
      chunk: tokens at a time; memory is 2 * chunk * V.

    Returns:
      [B, T] float32, nats; 0 where masked.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.
    """
    check_arrays(
        "chunked_reverse_kl",
        student_BTD=(student_BTD, "BTD", "float"),
        student_head_DV=(student_head_DV, "DV", "float"),
        teacher_BTE=(teacher_BTE, "BTE", "float"),
        teacher_head_EV=(teacher_head_EV, "EV", "float"),
        mask_BT=(mask_BT, "BT", "mask"),
    )
    tokens = mask_BT.size
    chunk = min(chunk, tokens)
    padding = -tokens % chunk

    def rows(x: jax.Array, width: tuple[int, ...]) -> jax.Array:
        return jnp.pad(x.reshape(tokens, *width), [(0, padding)] + [(0, 0)] * len(width)).reshape(-1, chunk, *width)

    @jax.checkpoint
    def kl(part: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        student, teacher, mask = part
        student_logits = jnp.dot(student, student_head_DV, preferred_element_type=jnp.float32) / temperature
        teacher_logits = jnp.dot(teacher, teacher_head_EV, preferred_element_type=jnp.float32) / temperature
        return reverse_kl(student_logits, teacher_logits, mask)

    def one(part: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        # Only failed rollouts are distilled: most chunks have nothing to do.
        return jax.lax.cond(jnp.any(part[2]), kl, lambda part: jnp.zeros(part[2].shape, jnp.float32), part)

    parts = rows(student_BTD, student_BTD.shape[2:]), rows(teacher_BTE, teacher_BTE.shape[2:]), rows(mask_BT, ()) > 0
    return jax.lax.map(one, parts).reshape(-1)[:tokens].reshape(mask_BT.shape)
