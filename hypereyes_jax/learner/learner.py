"""The learner: SFT and RL optimiser steps, and log-prob scoring, as jitted functions of (state, packed batch).

Gradients accumulate over the micro-batches of a `PackedBatch` inside one program, in float32. Weights are normalised by
their sum over the whole step, so the result is that of one large batch, however the samples were packed or split. There
is one exception: SFT of a mixture of experts adds a loss on how evenly the router spreads tokens, which is not a sum
over tokens; `LearnerConfig.router_balance` says over what it is taken. The losses are in `sft_loss` and `rl_loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.numbers import check_numbers
from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.learner.forward import Forward, cast
from hypereyes_jax.learner.metrics import Mean, Metrics
from hypereyes_jax.learner.on_mesh import ScoreOnMesh, StepOnMesh, batch_shardings, counted
from hypereyes_jax.learner.optimizer import make_optimizer
from hypereyes_jax.learner.packing import PackedBatch
from hypereyes_jax.learner.rl_loss import TeacherWeights, rl_loss
from hypereyes_jax.learner.sft_loss import sft_loss
from hypereyes_jax.learner.state import Params, TrainState, join, split
from hypereyes_jax.learner.token_loss import TokenLoss, chosen_loss
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.models.qwen3_vl.moe import RouterLoad
from hypereyes_jax.models.sharding import lora_shardings, param_shardings
from hypereyes_jax.models.trip_counts import expected_trips

Figures = dict[str, jax.Array]  # float32 scalars
# (trainable weights, micro-batch, its number, weight of the whole step) -> (loss, figures)
MicroLoss = Callable[[Params, PackedBatch, Any, jax.Array], tuple[jax.Array, Metrics]]


class Learner(NamedTuple):
    """Jitted functions of one configuration. The `state` given to a step is donated: use the one it returns.

    A step whose loss or gradient is not finite leaves weights and moments as they were, and says so in its figures:
    `refused` is 1.
    """

    init: Callable[..., TrainState]  # (key, params, lora=None)
    sft_step: Callable[[TrainState, PackedBatch], tuple[TrainState, Figures]]
    rl_step: Callable[..., tuple[TrainState, Figures]]  # (state, batch, teacher=None)
    score_logprobs: Callable[..., jax.Array]  # (params, batch, lora=None, temperature=1.0) -> float32 [M, B, T]
    shardings: Callable[[TrainState], TrainState] | None  # of a state (or its shapes) on the mesh; None without a mesh


@dataclass(frozen=True)
class _Steps:
    """What the jitted functions are made of: a model, a training configuration and an optimiser."""

    forward: Forward
    teacher: Forward
    learn: LearnerConfig
    optimizer: optax.GradientTransformation
    token_loss: TokenLoss

    def init(self, key: jax.Array, params: Params, lora: Params | None = None) -> TrainState:
        """Step 0. `lora`: the adapters to train, in "lora" mode."""
        trainable, frozen = split(params, self.learn.train, lora)
        return TrainState(jnp.int32(0), trainable, frozen, self.optimizer.init(trainable), jax.random.key_data(key))

    def sft_step(self, state: TrainState, batch: PackedBatch) -> tuple[TrainState, Figures]:
        several = batch.targets_MBT.shape[0] > 1  # one micro-batch is the step
        by_step = self.learn.router_balance == "step" and self.forward.config.text.num_experts > 0
        step_load = self._step_load(state, batch) if by_step and several else None

        def loss(trainable: Params, micro: PackedBatch, m: Any, weight: jax.Array) -> tuple[jax.Array, Metrics]:
            params, lora = join(trainable, state.frozen, self.learn.train)
            return sft_loss(params, lora, micro, weight, self.forward, self._dropout_key(state, m), step_load)

        return self._update(loss, state, batch)

    def rl_step(
        self, state: TrainState, batch: PackedBatch, teacher: Params | None = None
    ) -> tuple[TrainState, Figures]:
        scorer = None if teacher is None else TeacherWeights(teacher, self.teacher)

        def loss(trainable: Params, micro: PackedBatch, m: Any, weight: jax.Array) -> tuple[jax.Array, Metrics]:
            params, lora = join(trainable, state.frozen, self.learn.train)
            return rl_loss(params, lora, micro, weight, self.forward, self.learn, self.token_loss, scorer)

        return self._update(loss, state, batch)

    def score_logprobs(
        self, params: Params, batch: PackedBatch, lora: Params | None = None, temperature: float | jax.Array = 1.0
    ) -> jax.Array:
        # nothing is derived, so nothing need be computed twice
        forward = replace(self.forward, remat="none")
        params = cast(params, forward.compute_dtype)
        head = forward.head(params)

        def one(m: jax.Array, out: jax.Array) -> jax.Array:
            micro = _micro(batch, m)
            hidden_BTD, _ = forward.hidden(params, lora, micro.inputs)
            logp, _ = forward.logprobs(hidden_BTD, head, micro.targets_MBT, temperature)
            return out.at[m].set(logp)

        with expected_trips(batch.targets_MBT.shape[0]):
            return jax.lax.fori_loop(0, batch.count, one, jnp.zeros(batch.targets_MBT.shape, jnp.float32))

    def _dropout_key(self, state: TrainState, m: Any) -> jax.Array | None:
        if self.learn.train != "lora":
            return None
        return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), m)

    def _step_load(self, state: TrainState, batch: PackedBatch) -> RouterLoad:
        """The router's load over all micro-batches, with the dropout that the gradient's pass will have."""
        params, lora = join(state.trainable, state.frozen, self.learn.train)

        def one(m: jax.Array | int) -> RouterLoad | None:
            return self.forward.hidden(params, lora, _micro(batch, m).inputs, self._dropout_key(state, m))[1]

        return jax.lax.stop_gradient(_summed(one, batch))

    def _update(self, loss: MicroLoss, state: TrainState, batch: PackedBatch) -> tuple[TrainState, Figures]:
        # all masked: the gradient is 0, not NaN
        weight = jnp.maximum(jnp.sum(batch.weight_MBT) + batch.left_out, 1e-9)
        grads, metrics = _accumulate(lambda w, micro, m: loss(w, micro, m, weight), state.trainable, batch)
        figures = {name: mean.value for name, mean in metrics.items()} | {"grad_norm": optax.tree.norm(grads)}
        finite = jnp.isfinite(figures["loss"]) & jnp.isfinite(figures["grad_norm"])
        on_host = self.learn.optimizer.moments_on_host
        moments = _moved(state.opt_state, jax.memory.Space.Device) if on_host else state.opt_state
        updates, new_moments = self.optimizer.update(grads, moments, state.trainable)
        keep = partial(jax.tree.map, partial(jnp.where, finite))
        opt_state = keep(new_moments, moments)
        opt_state = _moved(opt_state, jax.memory.Space.Host) if on_host else opt_state
        trainable = keep(optax.apply_updates(state.trainable, updates), state.trainable)
        figures["refused"] = 1.0 - finite.astype(jnp.float32)
        return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), figures


def make_learner(
    config: Qwen3VLConfig,
    learn: LearnerConfig,
    mesh: Mesh | None = None,
    kernels: Kernels | None = None,
    teacher_config: Qwen3VLConfig | None = None,
    token_loss: TokenLoss | None = None,
) -> Learner:
    """Jit the functions for a model and a training configuration.

    `teacher_config` is of the weights that `rl_step` is given as `teacher`; None = the model's own. Both read the same
    batch, so their images must be cut alike: see `forward.reads_alike`. `token_loss` is a user's policy loss
    (`token_loss.load_loss`); None = the one that `learn.loss` names.

    On a mesh, states and batches live as `models.partition` says: put a state there with `jax.device_put(state,
    learner.shardings(state))`; a host's numpy batch may be given as it is (several processes: see `global_batch`). The
    batch must be packed with `PackConfig.shards` = the product of the mesh's data axes. `kernels` default to the best
    known for the mesh's platform; without a mesh, to those that run anywhere.

    Raises ShardingError if the mesh does not divide the model, SettingError for a number that none can have, ValueError
    for moments on the host without a mesh.
    """
    check_numbers(learn)
    if learn.optimizer.moments_on_host and mesh is None:
        raise ValueError("OptimizerConfig.moments_on_host needs a mesh: make one, of one device if need be")
    kernels = kernels or Kernels.for_platform("cpu" if mesh is None else mesh.devices.flat[0].platform)
    vocab_shards = 1 if mesh is None else mesh.shape["tensor"]
    trained = replace(kernels, linear=learn.matmuls)  # the teacher's log-probs stay exact
    forward = Forward(config, trained, learn.compute_dtype, learn.remat, vocab_shards)
    teacher = Forward(teacher_config or config, kernels, learn.compute_dtype, vocab_shards=vocab_shards)
    steps = _Steps(forward, teacher, learn, make_optimizer(learn.optimizer), token_loss or chosen_loss(learn))
    if mesh is None:
        return Learner(
            init=steps.init,
            sft_step=jax.jit(steps.sft_step, donate_argnums=0),
            rl_step=jax.jit(steps.rl_step, donate_argnums=0),
            score_logprobs=jax.jit(steps.score_logprobs),
            shardings=None,
        )
    by_weight, by_teachers_weight = param_shardings(config, mesh), param_shardings(teacher.config, mesh)
    shardings = partial(_state_shardings, steps, mesh, by_weight)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def on_mesh(function: Callable[..., Any]) -> StepOnMesh:
        def build(arguments: tuple[Any, ...], count: int | None) -> Any:
            state, batch, *weights = arguments
            where = (shardings(state), batch_shardings(batch, mesh), *[by_teachers_weight for _ in weights])
            program = function if count is None else counted(function, count)
            return jax.jit(program, in_shardings=where, out_shardings=(where[0], everywhere), donate_argnums=0)

        return StepOnMesh(mesh, build, {}, kernels.known_trips)

    def scored(params: Params, batch: PackedBatch, lora: Any, temperature: Any, count: int | None) -> jax.Array:
        whole_batch = batch if count is None else batch.replace(count=count)
        return steps.score_logprobs(params, whole_batch, lora, temperature)

    return Learner(
        init=steps.init,
        sft_step=on_mesh(steps.sft_step),
        rl_step=on_mesh(steps.rl_step),
        score_logprobs=ScoreOnMesh(mesh, by_weight, jax.jit(scored, static_argnums=4), kernels.known_trips),
        shardings=shardings,
    )


def _state_shardings(steps: _Steps, mesh: Mesh, by_weight: Params, state: TrainState) -> TrainState:
    """Where the leaves of a state (or its shapes) lie: a state whose leaves are shardings."""
    learn, everywhere = steps.learn, NamedSharding(mesh, PartitionSpec())
    lora = lora_shardings(steps.forward.config, state.trainable, mesh) if learn.train == "lora" else None
    trainable, frozen = split(by_weight, learn.train, lora)
    on_host = learn.optimizer.moments_on_host

    def place(moment: Any, where: NamedSharding) -> NamedSharding:
        # some optimisers factor their moments: what has another rank than its weight has no axis to cut
        where = where if len(where.spec) <= moment.ndim else everywhere
        return where.with_memory_kind("pinned_host") if on_host else where

    moments = optax.tree.map_params(
        steps.optimizer,
        place,
        state.opt_state,
        trainable,
        transform_non_params=lambda _: everywhere,
    )
    return TrainState(everywhere, trainable, frozen, moments, everywhere)  # type: ignore[arg-type]


def _moved(moments: Any, space: Any) -> Any:
    """The moments in another memory space (`jax.memory.Space`); the step counts beside them stay on the device."""
    return jax.tree.map(lambda x: jax.device_put(x, space) if x.ndim else x, moments)


def _micro(batch: PackedBatch, m: jax.Array | int) -> PackedBatch:
    """Micro-batch m: the same fields without their leading axis."""
    none = jnp.zeros(batch.targets_MBT.shape[0])
    arrays = batch.replace(count=none, left_out=none)
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, m, keepdims=False), arrays)


def _accumulate(
    loss: Callable[[Params, PackedBatch, Any], tuple[jax.Array, Metrics]], trainable: Params, batch: PackedBatch
) -> tuple[Params, dict[str, Mean]]:
    """Sums of gradients (float32) and metrics over the micro-batches in use."""

    def one(m: jax.Array | int) -> tuple[Params, Metrics]:
        grads, metrics = jax.grad(loss, has_aux=True)(trainable, _micro(batch, m), m)
        return cast(grads, "float32"), cast(metrics, "float32")

    return _summed(one, batch)


def _summed(one: Callable[[jax.Array | int], Any], batch: PackedBatch) -> Any:
    """The sum of `one(m)` over the micro-batches in use."""
    if batch.targets_MBT.shape[0] == 1:
        return one(0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0))
    # The trip count is an array, where a device ends its loops itself: any number of micro-batches runs in one program,
    # and padding is never computed.
    with expected_trips(batch.targets_MBT.shape[0]):
        return jax.lax.fori_loop(0, batch.count, lambda m, sums: jax.tree.map(jnp.add, sums, one(m)), zeros)
