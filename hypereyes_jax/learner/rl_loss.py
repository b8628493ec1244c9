"""The loss of GRPO with on-policy distillation on one micro-batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.learner.forward import Forward
from hypereyes_jax.learner.metrics import Mean, Metrics, mean, total
from hypereyes_jax.learner.packing import PackedBatch
from hypereyes_jax.learner.state import Params
from hypereyes_jax.learner.token_loss import LossTokens, TokenLoss
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.rl.distill import opd_advantage
from hypereyes_jax.rl.distill_chunked import chunked_reverse_kl
from hypereyes_jax.rl.kl_penalty import kl_penalty


class TeacherWeights(NamedTuple):
    """A teacher whose weights are here, for the vocabulary-wide form of distillation."""

    params: Params
    forward: Forward


def rl_loss(
    params: Params,
    lora: Lora | None,
    micro: PackedBatch,
    total_weight: jax.Array,
    forward: Forward,
    learn: LearnerConfig,
    token_loss: TokenLoss,
    teacher: TeacherWeights | None = None,
) -> tuple[jax.Array, Metrics]:
    """Policy loss (the clipped one of arXiv 2605.07177, or another), distillation on failed samples, and a KL penalty.

    The losses of micro-batches add up.

    There is no dropout: it would make the trainer's policy another one than the sampler's.

    Args:
      params, lora: the policy's weights, and adapters beside them.
      micro: one micro-batch, fields [B, T]. NaN in `teacher_logp_MBT` masks a token's distillation.
      total_weight: float32 scalar, sum of the weights of the whole step, over all processes.
      forward: how the policy's pass is made.
      learn: the constants of the loss.
      token_loss: the policy loss of each token, as `learner.token_loss.chosen_loss` makes it.
      teacher: needed by `learn.opd == "reverse-kl"` alone.

    Returns:
      (float32 scalar, figures: loss, tokens, logp, entropy, sampler_gap, those of `token_loss`, kl_to_teacher where a
      teacher scored, and kl_to_reference with a KL penalty).

    Raises:
      ValueError: reverse KL without a teacher's weights, or a KL penalty without a reference.
    """
    routing = forward.routing(learn.routing_replay, micro.experts_MBCT)
    hidden_BTD, _ = forward.hidden(params, lora, micro.inputs, routing=routing)
    head_DV = forward.head(params)
    logp_BT, entropy_BT = forward.logprobs(hidden_BTD, head_DV, micro.targets_MBT, learn.temperature)
    mask_BT = micro.weight_MBT > 0
    # With one update per rollout batch, the weights before it are the present ones: a second pass gives the same.
    old_BT = jax.lax.stop_gradient(logp_BT) if micro.old_logp_MBT is None else micro.old_logp_MBT
    advantage_BT, metrics = micro.advantage_MBT, Metrics()
    if micro.teacher_logp_MBT is not None:
        scored_BT = jnp.isfinite(micro.teacher_logp_MBT) & (micro.failed_MBT > 0)
        metrics["kl_to_teacher"] = mean(old_BT - micro.teacher_logp_MBT, scored_BT)
        if learn.opd == "advantage":
            # by token, not by row: a packed row holds several samples
            advantage_BT = opd_advantage(advantage_BT, old_BT, micro.teacher_logp_MBT, micro.failed_MBT, learn.opd_coef)
    sampler_BT = {"full": micro.logp_full_MBT, "truncated": micro.logp_truncated_MBT}[learn.tis_against]
    tokens = LossTokens(
        logp_BT, old_BT, advantage_BT, mask_BT, micro.inputs.segment_BT, sampler_BT if learn.tis_cap else None
    )
    loss_BT, stats = token_loss(tokens)
    if learn.kl != "none":
        reference_BT = _reference(params, lora, micro, forward, head_DV, learn.temperature)
        kl_BT = kl_penalty(logp_BT, reference_BT, mask_BT, learn.kl)
        metrics["kl_to_reference"] = mean(kl_BT, mask_BT)
        loss_BT += learn.kl_coef * kl_BT
    if learn.opd == "reverse-kl":
        if teacher is None:
            raise ValueError('opd="reverse-kl" needs the teacher\'s weights: rl_step(state, batch, teacher)')
        teacher_hidden_BTD, _ = teacher.forward.hidden(teacher.params, None, micro.inputs)
        distilled_BT = chunked_reverse_kl(
            hidden_BTD, head_DV, teacher_hidden_BTD, teacher.forward.head(teacher.params),
            micro.failed_MBT * mask_BT, learn.temperature,
        )  # fmt: skip
        loss_BT += learn.opd_coef * distilled_BT
    # A server does not tell all log-probs of a truncated distribution: NaN, which is not a gap.
    known_BT = jnp.where(jnp.isfinite(micro.logp_full_MBT), micro.logp_full_MBT, old_BT)
    loss = jnp.sum(micro.weight_MBT * loss_BT) / total_weight
    count = jnp.sum(mask_BT).astype(jnp.float32)
    metrics |= {name: Mean(value * count, count) for name, value in stats.items()}
    metrics |= {
        "loss": total(loss),
        "tokens": total(count),
        "logp": mean(logp_BT, mask_BT),
        "entropy": mean(entropy_BT, mask_BT),
        "sampler_gap": mean(jnp.abs(old_BT - known_BT), mask_BT),
    }
    return loss, metrics


def _reference(
    params: Params,
    lora: Lora | None,
    micro: PackedBatch,
    forward: Forward,
    head_DV: jax.Array,
    temperature: float,
) -> jax.Array:
    """Log-probs [B, T] under the policy that the run began with: given, or those of the model without its adapters."""
    if micro.reference_logp_MBT is not None:
        return micro.reference_logp_MBT
    if lora is None:
        raise ValueError("a KL penalty needs a reference: PackedBatch.reference_logp_MBT, where there are no adapters")
    hidden_BTD, _ = forward.hidden(params, None, micro.inputs)
    logp_BT, _ = forward.logprobs(hidden_BTD, head_DV, micro.targets_MBT, temperature)
    return jax.lax.stop_gradient(logp_BT)
