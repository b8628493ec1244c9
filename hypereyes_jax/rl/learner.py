"""The learner: SFT and RL optimiser steps, and log-prob scoring, as pure functions of (state, packed batch).

Gradients accumulate over the micro-batches of a `PackedBatch` inside one program, in float32. Weights are normalised by
their sum over the whole step, so the result is that of one large batch, however the samples were packed or split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.qwen3_vl import hidden_states, lm_head
from hypereyes_jax.rl.distill import opd_advantage
from hypereyes_jax.rl.distill_chunked import chunked_reverse_kl
from hypereyes_jax.rl.logprobs import token_logprobs
from hypereyes_jax.rl.optimizer import OptimizerConfig, make_optimizer
from hypereyes_jax.rl.pack import PackedBatch
from hypereyes_jax.rl.policy_loss import policy_loss
from hypereyes_jax.rl.state import Params, TrainState, join, split

Metrics = dict[str, jax.Array]  # float32 scalars
Loss = Callable[..., tuple[jax.Array, Metrics]]


@dataclass(frozen=True)
class LearnerConfig:
    """What is trained, and how. The defaults of the RL loss are the paper's."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: Literal["full", "language", "lora"] = "full"  # all; all but the vision tower; adapters only
    remat: Literal["none", "dots", "full"] = "none"
    compute_dtype: str = "float32"  # weights are cast to it for each pass; gradients accumulate in float32
    temperature: float = 0.8  # RL: logits are divided by it, as in sampling; the teacher's too
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = 3.0
    tis_cap: float = 2.0  # bound on the importance weight of the sampler against the trainer; 0 = no weight
    # "full": the weight corrects the sampler's numerics only. "sampled": also the mass that top-p cut off.
    tis_against: Literal["full", "sampled"] = "full"
    opd: Literal["advantage", "reverse-kl"] = (
        "advantage"  # reverse-kl: a loss over the vocabulary, needs teacher weights
    )
    opd_coef: float = 0.05


class Learner(NamedTuple):
    """Jitted functions of one configuration. The `state` given to a step is donated: use the one it returns."""

    init: Callable[..., TrainState]  # (key, params, lora=None)
    sft_step: Callable[[TrainState, PackedBatch], tuple[TrainState, Metrics]]
    rl_step: Callable[..., tuple[TrainState, Metrics]]  # (state, batch, teacher=None)
    score_logprobs: Callable[..., jax.Array]  # (params, batch, lora=None, temperature=1.0) -> float32 [M, B, T]


def make_learner(config: Qwen3VLConfig, learn: LearnerConfig) -> Learner:
    """Build the functions for a model and a training configuration."""
    optimizer = make_optimizer(learn.optimizer)

    def init(key: jax.Array, params: Params, lora: Params | None = None) -> TrainState:
        """Step 0. `lora`: the adapters to train, in "lora" mode."""
        trainable, frozen = split(params, learn.train, lora)
        return TrainState(jnp.int32(0), trainable, frozen, optimizer.init(trainable), jax.random.key_data(key))

    def hidden(trainable: Params, state: TrainState, micro: PackedBatch, key: jax.Array | None = None) -> Any:
        params, lora = join(
            _cast(trainable, learn.compute_dtype), _cast(state.frozen, learn.compute_dtype), learn.train
        )
        return params, hidden_states(params, config, micro.inputs, lora, remat=learn.remat, dropout_key=key)

    def sft_loss(trainable: Params, state: TrainState, micro: PackedBatch, m: Any, total: jax.Array) -> Any:
        key = None
        if learn.train == "lora":
            key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), m)
        params, hidden_BTD = hidden(trainable, state, micro, key)
        logp, entropy = token_logprobs(hidden_BTD, lm_head(params, config), micro.targets_MBT)
        loss = -jnp.sum(micro.weight_MBT * logp) / total
        return loss, {"loss": loss, **_sums(micro.weight_MBT > 0, logp=logp, entropy=entropy)}

    def rl_loss(
        teacher: Params | None, trainable: Params, state: TrainState, micro: PackedBatch, m: Any, total: jax.Array
    ) -> Any:
        # No dropout: it would make the trainer's policy another one than the sampler's.
        params, hidden_BTD = hidden(trainable, state, micro)
        head = lm_head(params, config)
        logp, entropy = token_logprobs(hidden_BTD, head, micro.targets_MBT, learn.temperature)
        mask = micro.weight_MBT > 0
        # With one update per rollout batch, the weights before it are the present ones: a second pass gives the same.
        old = jax.lax.stop_gradient(logp) if micro.old_logp_MBT is None else micro.old_logp_MBT
        advantage, metrics = micro.advantage_MBT, {}
        if micro.teacher_logp_MBT is not None:
            scored = jnp.isfinite(micro.teacher_logp_MBT) & (micro.failed_MBT > 0)
            gap = jnp.where(scored, old - micro.teacher_logp_MBT, 0.0)
            metrics |= {"kl_to_teacher": jnp.sum(gap), "kl_to_teacher/n": jnp.sum(scored)}
            if learn.opd == "advantage":
                # A packed row holds several samples, so "failed" is by token here: a batch of sequences of one token.
                columns = (x.reshape(-1, 1) for x in (advantage, old, micro.teacher_logp_MBT))
                advantage = opd_advantage(*columns, micro.failed_MBT.reshape(-1), learn.opd_coef).reshape(mask.shape)
        behaviour = {"full": micro.behaviour_logp_MBT, "sampled": micro.sampled_logp_MBT}[learn.tis_against]
        loss_BT, stats = policy_loss(
            logp, old, advantage, mask, learn.clip_low, learn.clip_high, learn.dual_clip,
            behaviour_logp_BT=behaviour if learn.tis_cap else None, tis_cap=learn.tis_cap or 1.0,
        )  # fmt: skip
        if learn.opd == "reverse-kl":
            if teacher is None:
                raise ValueError('opd="reverse-kl" needs the teacher\'s weights: rl_step(state, batch, teacher)')
            taught = hidden_states(_cast(teacher, learn.compute_dtype), config, micro.inputs)
            kl_BT = chunked_reverse_kl(
                hidden_BTD, head, taught, lm_head(teacher, config), micro.failed_MBT * mask, learn.temperature
            )
            loss_BT += learn.opd_coef * kl_BT
        loss = jnp.sum(micro.weight_MBT * loss_BT) / total
        n = jnp.sum(mask)
        metrics |= {name: value * n for name, value in stats.items()}
        metrics |= _sums(mask, entropy=entropy, sampler_gap=jnp.abs(old - micro.behaviour_logp_MBT), logp=logp)
        return loss, {"loss": loss, **metrics}

    def step(loss: Loss, state: TrainState, batch: PackedBatch) -> tuple[TrainState, Metrics]:
        total = jnp.maximum(jnp.sum(batch.weight_MBT), 1e-9)  # all masked: the gradient is 0, not NaN
        grads, sums = _accumulate(lambda w, micro, m: loss(w, state, micro, m, total), state.trainable, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = _means(sums) | {"grad_norm": optax.tree.norm(grads)}
        return state._replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), metrics

    def sft_step(state: TrainState, batch: PackedBatch) -> tuple[TrainState, Metrics]:
        return step(sft_loss, state, batch)

    def rl_step(state: TrainState, batch: PackedBatch, teacher: Params | None = None) -> tuple[TrainState, Metrics]:
        return step(lambda *arguments: rl_loss(teacher, *arguments), state, batch)

    def score_logprobs(
        params: Params, batch: PackedBatch, lora: Params | None = None, temperature: float | jax.Array = 1.0
    ) -> jax.Array:
        params = _cast(params, learn.compute_dtype)
        head = lm_head(params, config)

        def one(m: jax.Array, out: jax.Array) -> jax.Array:
            micro = _micro(batch, m)
            hidden_BTD = hidden_states(params, config, micro.inputs, lora)
            return out.at[m].set(token_logprobs(hidden_BTD, head, micro.targets_MBT, temperature)[0])

        return jax.lax.fori_loop(0, batch.count, one, jnp.zeros(batch.targets_MBT.shape, jnp.float32))

    return Learner(
        init=init,
        sft_step=jax.jit(sft_step, donate_argnums=0),
        rl_step=jax.jit(rl_step, donate_argnums=0),
        score_logprobs=jax.jit(score_logprobs),
    )


def _cast(tree: Params, dtype: str) -> Params:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _micro(batch: PackedBatch, m: jax.Array | int) -> PackedBatch:
    """Micro-batch m: the same fields without their leading axis."""
    arrays = batch._replace(count=jnp.zeros(batch.targets_MBT.shape[0]))
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, m, keepdims=False), arrays)


def _accumulate(loss: Loss, trainable: Params, batch: PackedBatch) -> tuple[Params, Metrics]:
    """Sums of gradients (float32) and metrics over the micro-batches in use."""

    def one(m: jax.Array | int) -> tuple[Params, Metrics]:
        grads, metrics = jax.grad(loss, has_aux=True)(trainable, _micro(batch, m), m)
        return _cast(grads, "float32"), _cast(metrics, "float32")

    if batch.targets_MBT.shape[0] == 1:
        return one(0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0))
    # The trip count is an array: any number of micro-batches runs in one program, and padding is never computed.
    return jax.lax.fori_loop(0, batch.count, lambda m, sums: jax.tree.map(jnp.add, sums, one(m)), zeros)


def _sums(mask: jax.Array, **values: jax.Array) -> Metrics:
    """Sums over the trained tokens, and their number; `_means` divides them once all micro-batches are in."""
    return {name: jnp.sum(jnp.where(mask, x, 0.0)) for name, x in values.items()} | {"tokens": jnp.sum(mask)}


def _means(sums: Metrics) -> Metrics:
    tokens = jnp.maximum(sums["tokens"], 1.0)
    out = {"loss": sums["loss"], "tokens": sums["tokens"]}
    for name, value in sums.items():
        if name not in out and not name.endswith("/n"):
            out[name] = value / jnp.maximum(sums.get(f"{name}/n", tokens), 1.0)
    return out
