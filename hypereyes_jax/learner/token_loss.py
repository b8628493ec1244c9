"""The policy loss of each token: the paper's, the shipped others by name, or a user's own by `module:object`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from hypereyes_jax.configs.objects import NamedObject, call_with_metrics, in_words, instance, named_object
from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.rl.cispo import cispo_loss
from hypereyes_jax.rl.gspo import gspo_loss
from hypereyes_jax.rl.importance import truncated_importance_weight
from hypereyes_jax.rl.policy_loss import policy_loss

Stats = Mapping[str, jax.Array]  # scalars over the unmasked tokens


class LossTokens(struct.PyTreeNode):
    """What a policy loss is told of a micro-batch. Position t holds what concerns the prediction of the token at t + 1.

    Masked positions may hold anything. Gradients flow through `logp_BT` alone.
    """

    logp_BT: jax.Array  # floating, nats, under the weights being trained
    old_logp_BT: jax.Array  # floating, under the weights before this update
    advantage_BT: jax.Array  # floating, a rollout's advantage repeated over its tokens, distillation terms included
    mask_BT: jax.Array  # bool, True on the tokens that the model sampled
    sequence_BT: jax.Array  # int32 in [0, T): which sequence of a packed row a token belongs to
    sampler_logp_BT: jax.Array | None = None  # floating, what the engine sampled from; None = no correction is wanted


TokenLoss = Callable[[LossTokens], tuple[jax.Array, Stats]]  # ([B, T], 0 where masked, not reduced; metrics)
# A user's: the loss alone, or with a dict of scalars.
OwnLoss = Callable[[LossTokens], Any]


def chosen_loss(learn: LearnerConfig) -> TokenLoss:
    """The loss that `learn.loss` names, one of those shipped or a user's.

    Raises:
      UserError: there is no such loss, or as `load_loss`.
    """
    if ":" in learn.loss:
        return load_loss(learn.loss, learn)[0]
    if learn.loss == "clipped":
        return partial(_clipped, learn)
    if learn.loss == "gspo":
        return partial(_corrected, partial(_gspo, learn.gspo_clip), learn.tis_cap)
    if learn.loss == "cispo":
        return partial(_corrected, partial(_cispo, learn.cispo_clip), learn.tis_cap)
    raise UserError(
        f"there is no loss {learn.loss!r}: name clipped, gspo or cispo, or one of your own as module:object"
    )


def load_loss(own: str | OwnLoss | NamedObject, learn: LearnerConfig) -> tuple[TokenLoss, NamedObject]:
    """A user's loss, by name or as a function, and where it came from.

    It is called and differentiated once on two made-up rows, so that a wrong signature or shape is told before anything
    is spent. The weight of truncated importance sampling (`learn.tis_cap`) is multiplied on afterwards.

    Raises:
      UserError: it can't be loaded, or does not give one finite number a token whose gradient is finite.
    """
    source = named_object(own, "loss")
    source = replace(source, value=instance(source))
    loss = partial(_corrected, partial(_call_loss, source), learn.tis_cap)
    tokens = made_up_tokens()
    if not learn.tis_cap:
        tokens = tokens.replace(sampler_logp_BT=None)
    try:
        value, gradient = jax.jit(
            jax.value_and_grad(lambda logp: jnp.sum(loss(tokens.replace(logp_BT=logp))[0]))
        )(tokens.logp_BT)  # fmt: skip
    except Exception as error:
        raise UserError(
            f"the loss {source.name} failed on two made-up rows: {in_words(error)}. It must take one LossTokens "
            "(hypereyes_jax.learner.token_loss), work under jax.jit, and return an array [B, T], or that and a dict of "
            "scalars"
        ) from error
    for what, figures in (("", value), ("gradient of the ", gradient)):
        if not bool(jnp.all(jnp.isfinite(figures))):
            raise UserError(f"the {what}loss {source.name} is not finite on two made-up rows")
    if not bool(jnp.any(gradient)):
        raise UserError(
            f"the gradient of the loss {source.name} is 0 on two made-up rows, so it would train nothing: gradients "
            "flow through logp_BT alone"
        )
    return loss, source


def made_up_tokens() -> LossTokens:
    """Two rows of six tokens: the first holds two sequences, the second one; prompts and padding are masked."""
    mask = jnp.array([[0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 1, 0]], bool)
    logp = jnp.array([[-9.0, -1.0, -0.5, -9.0, -2.0, -0.1], [-9.0, -9.0, -0.7, -1.2, -0.3, -9.0]])
    shift = jnp.array([[0.0, 0.1, -0.1, 0.0, 0.3, 0.0], [0.0, 0.0, -0.2, 0.05, 0.0, 0.0]])
    advantage = jnp.array([[0.0, 1.2, 1.2, 0.0, -0.8, -0.8], [0.0, 0.0, 0.4, 0.4, 0.4, 0.0]])
    sequence = jnp.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 0]], jnp.int32)
    return LossTokens(logp, logp - shift, advantage, mask, sequence, logp - 2 * shift)


def _clipped(learn: LearnerConfig, tokens: LossTokens) -> tuple[jax.Array, Stats]:
    return policy_loss(
        tokens.logp_BT, tokens.old_logp_BT, tokens.advantage_BT, tokens.mask_BT,
        learn.clip_low, learn.clip_high, learn.dual_clip,
        sampler_logp_BT=tokens.sampler_logp_BT, tis_cap=learn.tis_cap or 1.0,
    )  # fmt: skip


def _gspo(clip: tuple[float, float], tokens: LossTokens) -> tuple[jax.Array, Stats]:
    return gspo_loss(
        tokens.logp_BT, tokens.old_logp_BT, tokens.advantage_BT, tokens.mask_BT, *clip, sequence_BT=tokens.sequence_BT
    )


def _cispo(clip: tuple[float, float], tokens: LossTokens) -> tuple[jax.Array, Stats]:
    return cispo_loss(tokens.logp_BT, tokens.old_logp_BT, tokens.advantage_BT, tokens.mask_BT, *clip)


def _call_loss(loaded: NamedObject, tokens: LossTokens) -> tuple[jax.Array, Stats]:
    """A user's loss. Raises ValueError for what is not a loss of these tokens; shapes are known while jax traces."""
    loss, stats = call_with_metrics(loaded, tokens)
    if jnp.shape(loss) != tokens.mask_BT.shape:
        raise ValueError(f"it gave shape {jnp.shape(loss)} for tokens of shape {tokens.mask_BT.shape}")
    if not isinstance(stats, Mapping) or any(jnp.shape(value) != () for value in stats.values()):
        raise ValueError("its metrics must be a dict of scalars")
    metrics = {f"loss_{name}": jax.lax.stop_gradient(jnp.asarray(value, jnp.float32)) for name, value in stats.items()}
    return jnp.where(tokens.mask_BT, loss, 0.0), metrics


def _corrected(loss: TokenLoss, cap: float, tokens: LossTokens) -> tuple[jax.Array, Stats]:
    """A loss times the truncated importance weight of the sampler, as `policy_loss` has it built in."""
    loss_BT, stats = loss(tokens)
    if tokens.sampler_logp_BT is None or not cap:
        return loss_BT, stats
    weight_BT, weight_stats = truncated_importance_weight(
        tokens.old_logp_BT, tokens.sampler_logp_BT, tokens.mask_BT, cap
    )
    return loss_BT * weight_BT, {**stats, **weight_stats}
