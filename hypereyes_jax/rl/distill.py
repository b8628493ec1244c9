"""The two forms of on-policy distillation (OPD): an advantage term, and a differentiable reverse KL."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.shape_checks import check_arrays


def opd_advantage(
    advantage_BT: jax.Array,
    student_logp_BT: jax.Array,
    teacher_logp_BT: jax.Array,
    failed_B: jax.Array,
    coef: float = 0.05,
) -> jax.Array:
    """Adds the teacher's correction to the advantages of failed rollouts.

      A_t <- A_t - coef * (log p_student(y_t) - log p_teacher(y_t))     on failed rollouts; A_t elsewhere

    This is the one-sample estimate of the reverse KL's gradient at a fixed prefix: a constant, without gradient, that
    enters the policy loss through A. Both log-probs must be taken at the same temperature. A token that the teacher did
    not score (NaN, as after an outage of the teacher, or an infinity) keeps its advantage.

    Args:
      advantage_BT: [B, T] floating.
      student_logp_BT: [B, T] floating, the learner's log-prob of each token before the update.
      teacher_logp_BT: [B, T] floating, the frozen teacher's log-prob of the same tokens.
      failed_B: [B] mask, 1 where the answer was wrong or unreadable (accuracy <= 0); or [B, T], when a row holds
        several rollouts.
      coef: weight, in advantage units per nat.

    Returns:
      [B, T] floating advantages, without gradient.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: OPD of arXiv 2605.07177 (failed rollouts only), in the advantage form of the authors' published code.
    """
    advantage, student_logp, teacher_logp, failed = check_arrays(
        "opd_advantage",
        advantage_BT=(advantage_BT, "BT", "float"),
        student_logp_BT=(student_logp_BT, "BT", "float"),
        teacher_logp_BT=(teacher_logp_BT, "BT", "float"),
        failed_B=(failed_B, "BT" if jnp.ndim(failed_B) == 2 else "B", "mask"),
    )
    gap = student_logp - teacher_logp
    applies = (failed if failed.ndim == 2 else failed[:, None]) & jnp.isfinite(gap)
    return jax.lax.stop_gradient(advantage - coef * jnp.where(applies, gap, 0.0))


def reverse_kl(student_logits: jax.Array, teacher_logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes KL(student || teacher) = sum_v p_s(v) (log p_s(v) - log p_t(v)) at each token, unreduced.

    Differentiable in the student; the teacher is a constant. Reduce it with `aggregate`. To follow the paper, the mask
    holds the sampled tokens of failed rollouts only.

    Args:
      student_logits: [..., V] floating, already divided by the temperature.
      teacher_logits: [..., V] floating, likewise.
      mask: [...] mask, 1 on tokens that count.

    Returns:
      [...] floating, nats; 0 where masked.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: the distillation loss of arXiv 2605.07177.
    """
    student, teacher, keep = check_arrays(
        "reverse_kl",
        student_logits=(student_logits, "*V", "float"),
        teacher_logits=(teacher_logits, "*V", "float"),
        mask=(mask, "*", "mask"),
    )
    return _kl(_log_softmax(student, keep), jax.lax.stop_gradient(_log_softmax(teacher, keep)), keep)


def reverse_kl_topk(student_logits: jax.Array, teacher_logits: jax.Array, mask: jax.Array, k: int = 20) -> jax.Array:
    """Computes the reverse KL over the teacher's k likeliest tokens and one bucket for all others.

    The mass outside the k tokens is one more outcome: the result is a true KL of the two coarser distributions, so it
    is never negative, is 0 for equal ones, and grows with k up to the full KL. (The sum over the k tokens alone has
    none of these properties: the student can lower it below 0 by moving mass out of sight.) With k >= V it is the full
    reverse KL.

    Args:
      student_logits: [..., V] floating, already divided by the temperature.
      teacher_logits: [..., V] floating, likewise.
      mask: [...] mask, 1 on tokens that count.
      k: number of tokens kept, >= 1.

    Returns:
      [...] floating, nats; 0 where masked.

    Raises:
      ValueError, TypeError: shapes, dtypes or k do not fit.

    Source: the distillation loss of arXiv 2605.07177, on a coarser set of outcomes.
    """
    student, teacher, keep = check_arrays(
        "reverse_kl_topk",
        student_logits=(student_logits, "*V", "float"),
        teacher_logits=(teacher_logits, "*V", "float"),
        mask=(mask, "*", "mask"),
    )
    if k < 1:
        raise ValueError(f"reverse_kl_topk: k must be >= 1, got {k}.")
    student_logp, teacher_logp = _log_softmax(student, keep), jax.lax.stop_gradient(_log_softmax(teacher, keep))
    if k < teacher_logp.shape[-1]:
        _, ids = jax.lax.top_k(teacher_logp, k)
        student_logp, teacher_logp = _coarsened(student_logp, ids), _coarsened(teacher_logp, ids)
    return _kl(student_logp, teacher_logp, keep)


def _log_softmax(logits: jax.Array, keep: jax.Array) -> jax.Array:
    # Masked positions become uniform before the arithmetic, so that their NaNs have no way into the gradient.
    logits = jnp.where(keep[..., None], logits, 0.0)
    return jax.nn.log_softmax(logits, axis=-1)


def _coarsened(logp: jax.Array, ids: jax.Array) -> jax.Array:
    """Log-probs [..., K + 1] of the tokens `ids` [..., K] and of all others together."""
    support = jnp.take_along_axis(logp, ids, axis=-1)
    others = jnp.put_along_axis(logp, ids, -jnp.inf, axis=-1, inplace=False)
    # All others may be forbidden (-inf): log 0 has no gradient, so it is put in after the sum.
    none = jnp.max(others, axis=-1, keepdims=True) == -jnp.inf
    mass = jax.nn.logsumexp(jnp.where(none, 0.0, others), axis=-1, keepdims=True)
    return jnp.concatenate([support, jnp.where(none, -jnp.inf, mass)], axis=-1)


def _kl(student_logp: jax.Array, teacher_logp: jax.Array, keep: jax.Array) -> jax.Array:
    p = jnp.exp(student_logp)
    # 0 log 0 = 0: an outcome that the student never takes costs nothing, even where the teacher's log-prob is -inf too.
    terms = jnp.where(p > 0, p * jnp.where(p > 0, student_logp - teacher_logp, 0.0), 0.0)
    return jnp.where(keep, jnp.sum(terms, axis=-1), 0.0)
