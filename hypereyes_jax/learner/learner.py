"""The learner: SFT and RL optimiser steps, and log-prob scoring, as pure functions of (state, packed batch).

Gradients accumulate over the micro-batches of a `PackedBatch` inside one program, in float32. Weights are normalised by
their sum over the whole step, so the result is that of one large batch, however the samples were packed or split. There
is one exception: SFT of a mixture of experts adds a loss on how evenly the router spreads tokens, which is not a sum
over tokens; `LearnerConfig.router_balance` says over what it is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.learner.optimizer import make_optimizer
from hypereyes_jax.learner.packing import PackedBatch
from hypereyes_jax.learner.state import Params, TrainState, join, split
from hypereyes_jax.models.partition import DATA
from hypereyes_jax.models.qwen3_vl import Kernels, hidden_states, lm_head
from hypereyes_jax.models.qwen3_vl.model import hidden_states_and_load
from hypereyes_jax.models.qwen3_vl.moe import RouterLoad, load_balancing_loss
from hypereyes_jax.models.sharding import lora_shardings, param_shardings
from hypereyes_jax.models.trip_counts import expected_trips
from hypereyes_jax.rl.distill import opd_advantage
from hypereyes_jax.rl.distill_chunked import chunked_reverse_kl
from hypereyes_jax.rl.logprobs import token_logprobs
from hypereyes_jax.rl.policy_loss import policy_loss

Metrics = dict[str, jax.Array]  # float32 scalars
Loss = Callable[..., tuple[jax.Array, Metrics]]


class Learner(NamedTuple):
    """Jitted functions of one configuration. The `state` given to a step is donated: use the one it returns."""

    init: Callable[..., TrainState]  # (key, params, lora=None)
    sft_step: Callable[[TrainState, PackedBatch], tuple[TrainState, Metrics]]
    rl_step: Callable[..., tuple[TrainState, Metrics]]  # (state, batch, teacher=None)
    score_logprobs: Callable[..., jax.Array]  # (params, batch, lora=None, temperature=1.0) -> float32 [M, B, T]
    shardings: Callable[[TrainState], TrainState] | None  # of a state (or its shapes) on the mesh; None without a mesh


def make_learner(
    config: Qwen3VLConfig,
    learn: LearnerConfig,
    mesh: Mesh | None = None,
    kernels: Kernels | None = None,
    teacher_config: Qwen3VLConfig | None = None,
) -> Learner:
    """Build the functions for a model and a training configuration.

    `teacher_config` is of the weights that `rl_step` is given as `teacher`; None = the model's own. Both read the same
    batch, so their images must be cut alike: see `reads_alike`.

    On a mesh, states and batches live as `models.partition` says: put a state there with `jax.device_put(state,
    learner.shardings(state))`; a host's numpy batch may be given as it is (several processes: see `rl.feed`). The batch
    must be packed with `PackConfig.shards` = the product of the mesh's data axes. `kernels` default to the best known
    for the mesh's platform; without a mesh, to those that run anywhere.

    Raises ShardingError if the mesh does not divide the model, ValueError for moments on the host without a mesh.
    """
    optimizer = make_optimizer(learn.optimizer)
    teacher_config = teacher_config or config
    platform = "cpu" if mesh is None else mesh.devices.flat[0].platform
    kernels = kernels or Kernels.for_platform(platform)
    on_host = learn.optimizer.moments_on_host
    if on_host and mesh is None:
        raise ValueError("OptimizerConfig.moments_on_host needs a mesh: make one, of one device if need be")
    vocab_shards = 1 if mesh is None else mesh.shape["tensor"]

    def init(key: jax.Array, params: Params, lora: Params | None = None) -> TrainState:
        """Step 0. `lora`: the adapters to train, in "lora" mode."""
        trainable, frozen = split(params, learn.train, lora)
        return TrainState(jnp.int32(0), trainable, frozen, optimizer.init(trainable), jax.random.key_data(key))

    def hidden(trainable: Params, state: TrainState, micro: PackedBatch, key: jax.Array | None = None) -> Any:
        params, lora = join(
            _cast(trainable, learn.compute_dtype), _cast(state.frozen, learn.compute_dtype), learn.train
        )
        x, load = hidden_states_and_load(
            params, config, micro.inputs, lora, remat=learn.remat, dropout_key=key, kernels=kernels
        )
        return params, x, load

    def dropout_key(state: TrainState, m: Any) -> jax.Array | None:
        if learn.train != "lora":
            return None
        return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), m)

    def step_load(state: TrainState, batch: PackedBatch) -> RouterLoad:
        """The router's load over all micro-batches, with the dropout that the gradient's pass will have."""
        load = _summed(lambda m: hidden(state.trainable, state, _micro(batch, m), dropout_key(state, m))[2], batch)
        return jax.lax.stop_gradient(load)

    def sft_loss(
        whole: RouterLoad | None,
        trainable: Params,
        state: TrainState,
        micro: PackedBatch,
        m: Any,
        total: jax.Array,
    ) -> Any:
        params, hidden_BTD, load = hidden(trainable, state, micro, dropout_key(state, m))
        logp, entropy = token_logprobs(
            hidden_BTD, lm_head(params, config), micro.targets_MBT, vocab_shards=vocab_shards
        )
        loss = -jnp.sum(micro.weight_MBT * logp) / total
        metrics = {"loss": loss, **_sums(micro.weight_MBT > 0, logp=logp, entropy=entropy)}
        if load is not None:
            if whole is None:
                # Each micro-batch is balanced in itself; they share the coefficient by their weight in the loss.
                balance = load_balancing_loss(load) * jnp.sum(micro.weight_MBT) / total
            else:
                # The shares of tokens have no gradient, and in the probabilities the loss is linear: with the whole
                # step's shares, the terms of the micro-batches add up to the loss of the whole step.
                balance = load_balancing_loss(whole._replace(probability_E=load.probability_E))
            loss += config.text.router_aux_loss_coef * balance
            metrics["router_balance/sum"] = balance
        return loss, metrics

    def rl_loss(
        teacher: Params | None, trainable: Params, state: TrainState, micro: PackedBatch, m: Any, total: jax.Array
    ) -> Any:
        # No dropout: it would make the trainer's policy another one than the sampler's.
        params, hidden_BTD, _ = hidden(trainable, state, micro)
        head = lm_head(params, config)
        logp, entropy = token_logprobs(
            hidden_BTD, head, micro.targets_MBT, learn.temperature, vocab_shards=vocab_shards
        )
        mask = micro.weight_MBT > 0
        # With one update per rollout batch, the weights before it are the present ones: a second pass gives the same.
        old = jax.lax.stop_gradient(logp) if micro.old_logp_MBT is None else micro.old_logp_MBT
        advantage = micro.advantage_MBT
        metrics: Metrics = {}
        if micro.teacher_logp_MBT is not None:
            scored = jnp.isfinite(micro.teacher_logp_MBT) & (micro.failed_MBT > 0)
            gap = jnp.where(scored, old - micro.teacher_logp_MBT, 0.0)
            metrics |= {"kl_to_teacher": jnp.sum(gap), "kl_to_teacher/n": jnp.sum(scored)}
            if learn.opd == "advantage":
                # by token, not by row: a packed row holds several samples
                advantage = opd_advantage(advantage, old, micro.teacher_logp_MBT, micro.failed_MBT, learn.opd_coef)
        behaviour = {"full": micro.behaviour_logp_MBT, "sampled": micro.sampled_logp_MBT}[learn.tis_against]
        loss_BT, stats = policy_loss(
            logp, old, advantage, mask, learn.clip_low, learn.clip_high, learn.dual_clip,
            behaviour_logp_BT=behaviour if learn.tis_cap else None, tis_cap=learn.tis_cap or 1.0,
        )  # fmt: skip
        if learn.opd == "reverse-kl":
            if teacher is None:
                raise ValueError('opd="reverse-kl" needs the teacher\'s weights: rl_step(state, batch, teacher)')
            teacher = _cast(teacher, learn.compute_dtype)
            taught = hidden_states(teacher, teacher_config, micro.inputs, kernels=kernels)
            teacher_head = lm_head(teacher, teacher_config)
            kl_BT = chunked_reverse_kl(
                hidden_BTD, head, taught, teacher_head, micro.failed_MBT * mask, learn.temperature
            )
            loss_BT += learn.opd_coef * kl_BT
        loss = jnp.sum(micro.weight_MBT * loss_BT) / total
        n = jnp.sum(mask)
        metrics |= {name: value * n for name, value in stats.items()}
        # A server does not tell all log-probs of a truncated distribution: NaN, which is no gap.
        told = jnp.where(jnp.isfinite(micro.behaviour_logp_MBT), micro.behaviour_logp_MBT, old)
        metrics |= _sums(mask, entropy=entropy, sampler_gap=jnp.abs(old - told), logp=logp)
        return loss, {"loss": loss, **metrics}

    def step(loss: Loss, state: TrainState, batch: PackedBatch) -> tuple[TrainState, Metrics]:
        total = jnp.maximum(jnp.sum(batch.weight_MBT) + batch.left_out, 1e-9)  # all masked: the gradient is 0, not NaN
        grads, sums = _accumulate(lambda w, micro, m: loss(w, state, micro, m, total), state.trainable, batch)
        moments = _moved(state.opt_state, jax.memory.Space.Device) if on_host else state.opt_state
        updates, opt_state = optimizer.update(grads, moments, state.trainable)
        opt_state = _moved(opt_state, jax.memory.Space.Host) if on_host else opt_state
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = _means(sums) | {"grad_norm": optax.tree.norm(grads)}
        return state._replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), metrics

    def sft_step(state: TrainState, batch: PackedBatch) -> tuple[TrainState, Metrics]:
        by_step = learn.router_balance == "step" and config.text.num_experts > 0
        several = batch.targets_MBT.shape[0] > 1  # one micro-batch is the step
        whole = step_load(state, batch) if by_step and several else None
        return step(lambda *arguments: sft_loss(whole, *arguments), state, batch)

    def rl_step(state: TrainState, batch: PackedBatch, teacher: Params | None = None) -> tuple[TrainState, Metrics]:
        return step(lambda *arguments: rl_loss(teacher, *arguments), state, batch)

    def score_logprobs(
        params: Params, batch: PackedBatch, lora: Params | None = None, temperature: float | jax.Array = 1.0
    ) -> jax.Array:
        params = _cast(params, learn.compute_dtype)
        head = lm_head(params, config)

        def one(m: jax.Array, out: jax.Array) -> jax.Array:
            micro = _micro(batch, m)
            hidden_BTD = hidden_states(params, config, micro.inputs, lora, kernels=kernels)
            logp, _ = token_logprobs(hidden_BTD, head, micro.targets_MBT, temperature, vocab_shards=vocab_shards)
            return out.at[m].set(logp)

        with expected_trips(batch.targets_MBT.shape[0]):
            return jax.lax.fori_loop(0, batch.count, one, jnp.zeros(batch.targets_MBT.shape, jnp.float32))

    if mesh is None:
        return Learner(
            init=init,
            sft_step=jax.jit(sft_step, donate_argnums=0),
            rl_step=jax.jit(rl_step, donate_argnums=0),
            score_logprobs=jax.jit(score_logprobs),
            shardings=None,
        )

    by_weight, by_teachers_weight = param_shardings(config, mesh), param_shardings(teacher_config, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def shardings(state: TrainState) -> TrainState:
        lora = lora_shardings(config, state.trainable, mesh) if learn.train == "lora" else None
        trainable, frozen = split(by_weight, learn.train, lora)
        moments = optax.tree.map_params(
            optimizer,
            lambda _, where: where.with_memory_kind("pinned_host") if on_host else where,
            state.opt_state,
            trainable,
            transform_non_params=lambda _: everywhere,
        )
        # A state whose leaves are shardings
        return TrainState(everywhere, trainable, frozen, moments, everywhere)  # type: ignore[arg-type]

    def places(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        state, batch, *teacher = arguments
        return (shardings(state), batch_shardings(batch, mesh), *[by_teachers_weight for _ in teacher])

    def on_mesh(function: Callable[..., Any]) -> _OnMesh:
        def build(arguments: tuple[Any, ...], count: int | None) -> Any:
            where = places(arguments)
            known = function if count is None else _counted(function, count)
            return jax.jit(known, in_shardings=where, out_shardings=(where[0], everywhere), donate_argnums=0)

        return _OnMesh(mesh, build, {}, kernels.known_trips)

    def scored(params: Params, batch: PackedBatch, lora: Any, temperature: Any, count: int | None) -> jax.Array:
        return score_logprobs(params, batch if count is None else batch._replace(count=count), lora, temperature)

    scoring = _ScoreOnMesh(mesh, by_weight, jax.jit(scored, static_argnums=4), kernels.known_trips)
    return Learner(init, on_mesh(sft_step), on_mesh(rl_step), scoring, shardings)


def reads_alike(one: Qwen3VLConfig, other: Qwen3VLConfig) -> bool:
    """Whether one batch serves both models: the same image tokens, patches and position table, and vocabulary size."""

    def of(config: Qwen3VLConfig) -> tuple[int, ...]:
        vision = config.vision
        images = (config.image_token_id, config.video_token_id, config.vision_start_token_id)
        patches = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size, vision.in_channels)
        return (*images, *patches, vision.num_position_embeddings, config.text.vocab_size)

    return of(one) == of(other)


@dataclass(frozen=True)
class _OnMesh:
    """A jitted step with explicit shardings, which need the structure of its arguments: built when that is known.

    With `known_trips` there is a program for each number of micro-batches in use: a loop of that known length.
    """

    mesh: Mesh
    build: Callable[[tuple[Any, ...], int | None], Any]
    programs: dict[Any, Any]
    known_trips: bool

    def _program(self, arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """The program, and the arguments as it takes them."""
        count = None
        if self.known_trips:
            state, batch, *more = arguments
            batch, count = _uncounted(batch)
            arguments = (state, batch, *more)
        key = (jax.tree.structure(arguments), count)
        if key not in self.programs:
            self.programs[key] = self.build(arguments, count)
        return self.programs[key], arguments

    def __call__(self, *arguments: Any) -> Any:
        program, arguments = self._program(arguments)
        with jax.set_mesh(self.mesh):
            return program(*arguments)

    def trace(self, *arguments: Any) -> Any:
        """As `jax.jit(...).trace`, with ShapeDtypeStructs. The devices need not exist."""
        program, arguments = self._program(arguments)
        with jax.set_mesh(self.mesh):
            return program.trace(*arguments)


def _uncounted(batch: PackedBatch) -> tuple[PackedBatch, int]:
    """The batch without its number of micro-batches in use, and that number; all of them, for a batch of shapes."""
    known = not isinstance(batch.count, jax.ShapeDtypeStruct)
    return batch._replace(count=None), int(batch.count) if known else batch.targets_MBT.shape[0]


def _counted(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """`function` of a batch that `_uncounted` gave."""

    def known(state: TrainState, batch: PackedBatch, *more: Any) -> Any:
        return function(state, batch._replace(count=count), *more)

    return known


@dataclass(frozen=True)
class _ScoreOnMesh:
    """`Learner.score_logprobs` on a mesh. Takes its arguments where they are; a host's batch is put in its place."""

    mesh: Mesh
    by_weight: Params
    scored: Any  # jitted
    known_trips: bool

    def __call__(
        self, params: Params, batch: PackedBatch, lora: Params | None = None, temperature: float | jax.Array = 1.0
    ) -> jax.Array:
        batch, count = _uncounted(batch) if self.known_trips else (batch, None)
        with jax.set_mesh(self.mesh):
            placed = jax.device_put(batch, batch_shardings(batch, self.mesh))
            return self.scored(params, placed, lora, temperature, count)

    def trace(self, params: Params, batch: PackedBatch) -> Any:
        """As `jax.jit(...).trace`, with ShapeDtypeStructs that need no shardings. The devices need not exist."""

        def put(x: Any, where: Any) -> Any:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

        batch, count = _uncounted(batch) if self.known_trips else (batch, None)
        with jax.set_mesh(self.mesh):
            return self.scored.trace(
                jax.tree.map(put, params, self.by_weight),
                jax.tree.map(put, batch, batch_shardings(batch, self.mesh)),
                None,
                1.0,
                count,
            )


def batch_shardings(batch: PackedBatch, mesh: Mesh) -> PackedBatch:
    """Rows, patches and visual tokens over the mesh's data axes; micro-batches and tokens of a row are not cut."""
    rows = NamedSharding(mesh, PartitionSpec(None, DATA))
    inputs = jax.tree.map(lambda _: rows, batch.inputs)
    inputs = inputs._replace(positions_3BT=NamedSharding(mesh, PartitionSpec(None, None, DATA)))
    whole = NamedSharding(mesh, PartitionSpec())
    leaves = jax.tree.map(lambda _: rows, batch._replace(inputs=None))
    return leaves._replace(inputs=inputs, count=None if batch.count is None else whole, left_out=whole)


def _moved(moments: Any, space: Any) -> Any:
    """The moments in another memory space (`jax.memory.Space`); the step counts beside them stay on the device."""
    return jax.tree.map(lambda x: jax.device_put(x, space) if x.ndim else x, moments)


def _cast(tree: Params, dtype: str) -> Params:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _micro(batch: PackedBatch, m: jax.Array | int) -> PackedBatch:
    """Micro-batch m: the same fields without their leading axis."""
    none = jnp.zeros(batch.targets_MBT.shape[0])
    arrays = batch._replace(count=none, left_out=none)
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, m, keepdims=False), arrays)


def _accumulate(loss: Loss, trainable: Params, batch: PackedBatch) -> tuple[Params, Metrics]:
    """Sums of gradients (float32) and metrics over the micro-batches in use."""

    def one(m: jax.Array | int) -> tuple[Params, Metrics]:
        grads, metrics = jax.grad(loss, has_aux=True)(trainable, _micro(batch, m), m)
        return _cast(grads, "float32"), _cast(metrics, "float32")

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


def _sums(mask: jax.Array, **values: jax.Array) -> Metrics:
    """Sums over the trained tokens, and their number; `_means` divides them once all micro-batches are in."""
    return {name: jnp.sum(jnp.where(mask, x, 0.0)) for name, x in values.items()} | {"tokens": jnp.sum(mask)}


def _means(sums: Metrics) -> Metrics:
    tokens = jnp.maximum(sums["tokens"], 1.0)
    out = {"loss": sums["loss"], "tokens": sums["tokens"]}
    for name, value in sums.items():
        if name.endswith("/sum"):  # already a mean
            out[name.removesuffix("/sum")] = value
        elif name not in out and not name.endswith("/n"):
            out[name] = value / jnp.maximum(sums.get(f"{name}/n", tokens), 1.0)
    return out
