"""The learner: SFT and RL optimiser steps, and log-prob scoring, as jitted functions of (state, packed batch).

Gradients accumulate over the micro-batches of a `PackedBatch`, in float32. Each is sent to the devices when it is its
turn: a step's images stay in the host's memory, and steps of any number of micro-batches run the same programs. Weights
are normalised by their sum over the whole step, so the result is that of one large batch, however the samples were
packed or split. There
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
from hypereyes_jax.learner.metrics import Metrics
from hypereyes_jax.learner.optimizer import make_optimizer
from hypereyes_jax.learner.packing import PackedBatch
from hypereyes_jax.learner.programs import Figures, Program, Scoring, Step, micro_shardings, put_on
from hypereyes_jax.learner.rl_loss import TeacherWeights, rl_loss
from hypereyes_jax.learner.sft_loss import sft_loss
from hypereyes_jax.learner.state import Params, TrainState, join, split
from hypereyes_jax.learner.token_loss import TokenLoss, chosen_loss
from hypereyes_jax.models.partition import DATA
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.models.qwen3_vl.moe import RouterLoad
from hypereyes_jax.models.sharding import lora_shardings, param_shardings


class Learner(NamedTuple):
    """Functions of one configuration. The `state` given to a step is donated: use the one it returns.

    Batches are of a process that trains alone (`packing.pack`), or this process's part (`global_batch.global_batch`). A
    step whose loss or gradient is not finite leaves weights and moments as they were, and says so in its figures:
    `refused` is 1.
    """

    init: Callable[..., TrainState]  # (key, params, lora=None)
    sft_step: Step  # (state, batch) -> (state, figures)
    rl_step: Step  # (state, batch, teacher's weights, which reverse KL needs) -> (state, figures)
    score_logprobs: Scoring  # (params, batch, lora=None, temperature=1.0) -> float32 [M, B, T] of this process's rows
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

    def sft_gradients(
        self, sums: Params | None, state: TrainState, micro: PackedBatch, m: Any, weight: Any, load: RouterLoad | None
    ) -> tuple[Params, Metrics]:
        """Micro-batch m's part of the step's gradient, added to `sums`. The state is without its moments here."""

        def loss(trainable: Params) -> tuple[jax.Array, Metrics]:
            params, lora = join(trainable, state.frozen, self.learn.train)
            return sft_loss(params, lora, micro, _positive(weight), self.forward, self._dropout_key(state, m), load)

        return _added(sums, loss, state.trainable)

    def rl_gradients(
        self,
        sums: Params | None,
        state: TrainState,
        micro: PackedBatch,
        m: Any,
        weight: Any,
        load: None,
        teacher: Params | None = None,
    ) -> tuple[Params, Metrics]:
        """The same of RL, without dropout and balance of experts: the policy sampled without them."""
        scorer = None if teacher is None else TeacherWeights(teacher, self.teacher)

        def loss(trainable: Params) -> tuple[jax.Array, Metrics]:
            params, lora = join(trainable, state.frozen, self.learn.train)
            return rl_loss(params, lora, micro, _positive(weight), self.forward, self.learn, self.token_loss, scorer)

        return _added(sums, loss, state.trainable)

    def router_load(self, state: TrainState, micro: PackedBatch, m: Any) -> RouterLoad | None:
        """The router's load of micro-batch m, with the dropout that the gradient's pass will have."""
        params, lora = join(state.trainable, state.frozen, self.learn.train)
        return self.forward.hidden(params, lora, micro.inputs, self._dropout_key(state, m))[1]

    def logprobs(self, params: Params, lora: Params | None, micro: PackedBatch, temperature: Any) -> jax.Array:
        """Log-probs [B, T] of a micro-batch's targets."""
        # nothing is derived, so nothing need be computed twice
        forward = replace(self.forward, remat="none")
        params = cast(params, forward.compute_dtype)
        hidden_BTD, _ = forward.hidden(params, lora, micro.inputs)
        return forward.logprobs(hidden_BTD, forward.head(params), micro.targets_MBT, temperature)[0]

    def update(self, state: TrainState, grads: Params, metrics: Metrics) -> tuple[TrainState, Figures]:
        """The optimiser's step along the whole gradient, and the step's figures."""
        figures = {name: mean.value for name, mean in metrics.items()} | {"grad_norm": optax.tree.norm(grads)}
        finite = jnp.isfinite(figures["loss"]) & jnp.isfinite(figures["grad_norm"])
        on_host = self.learn.optimizer.moments_on_host
        moments = _moved(state.opt_state, jax.memory.Space.Device) if on_host else state.opt_state
        updates, new_moments = self.optimizer.update(grads, moments, state.trainable)
        if not self.learn.optimizer.is_papers:  # whose updates are finite where the gradient is
            figures["update_norm"] = optax.tree.norm(updates)
            finite &= jnp.isfinite(figures["update_norm"])
        keep = partial(jax.tree.map, partial(jnp.where, finite))
        opt_state = keep(new_moments, moments)
        opt_state = _moved(opt_state, jax.memory.Space.Host) if on_host else opt_state
        trainable = keep(optax.apply_updates(state.trainable, updates), state.trainable)
        figures["refused"] = 1.0 - finite.astype(jnp.float32)
        return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), figures

    def _dropout_key(self, state: TrainState, m: Any) -> jax.Array | None:
        if self.learn.train != "lora":
            return None
        return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), m)

    @property
    def balances_steps(self) -> bool:
        """Whether SFT balances experts over a whole step."""
        return self.learn.router_balance == "step" and self.forward.config.text.num_experts > 0


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
    learner.shardings(state))`; batches stay in the host's memory (several processes: see `global_batch`). The
    batch must be packed with `PackConfig.shards` = the product of the mesh's data axes. `kernels` default to the best
    known for the mesh's platform; without a mesh, to those that run anywhere.

    Raises ShardingError if the mesh does not divide the model, SettingError for a number that none can have, ValueError
    for moments on the host without a mesh.
    """
    check_numbers(learn)
    if learn.optimizer.moments_on_host and mesh is None:
        raise ValueError("OptimizerConfig.moments_on_host needs a mesh: make one, of one device if need be")
    platform = "cpu" if mesh is None else mesh.devices.flat[0].platform
    kernels = kernels or Kernels.for_training(platform, config.text.num_hidden_layers)
    vocab_shards = 1 if mesh is None else mesh.shape["tensor"]
    trained = replace(kernels, linear=learn.matmuls)  # the teacher's log-probs stay exact
    forward = Forward(config, trained, learn.compute_dtype, learn.remat, vocab_shards)
    teacher = Forward(teacher_config or config, kernels, learn.compute_dtype, vocab_shards=vocab_shards)
    steps = _Steps(forward, teacher, learn, make_optimizer(learn.optimizer), token_loss or chosen_loss(learn))
    places = _Places(steps, mesh)
    put = put_on(mesh)

    def step(gradients: Callable[..., Any], load: Program | None) -> Step:
        zeros = Program(mesh, _zeros, places.of_zeros)
        summed = Program(mesh, gradients, places.of_gradients, donate=(0,))
        return Step(put, zeros, summed, Program(mesh, steps.update, places.of_update, donate=(0,)), load)

    load = Program(mesh, steps.router_load, places.of_load) if steps.balances_steps else None
    return Learner(
        init=steps.init,
        sft_step=step(steps.sft_gradients, load),
        rl_step=step(steps.rl_gradients, None),
        score_logprobs=Scoring(put, Program(mesh, steps.logprobs, places.of_scoring)),
        shardings=None if mesh is None else places.of_state,
    )


class _Places:
    """Where the arguments and results of the learner's programs lie on a mesh."""

    def __init__(self, steps: _Steps, mesh: Mesh | None):
        self._steps, self._mesh = steps, mesh
        if mesh is not None:
            self._everywhere = NamedSharding(mesh, PartitionSpec())
            self._rows = NamedSharding(mesh, PartitionSpec(DATA))
            self._by_weight = param_shardings(steps.forward.config, mesh)
            self._by_teachers_weight = param_shardings(steps.teacher.config, mesh)

    def of_state(self, state: TrainState) -> TrainState:
        """The places of the leaves of a state, or of its shapes."""
        learn = self._steps.learn
        lora = self._of_lora(state.trainable) if learn.train == "lora" else None
        trainable, frozen = split(self._by_weight, learn.train, lora)
        moments = None if state.opt_state is None else self._of_moments(state.opt_state, trainable)
        return TrainState(self._everywhere, trainable, frozen, moments, self._everywhere)  # type: ignore[arg-type]

    def _of_lora(self, lora: Params) -> Params:
        assert self._mesh is not None
        return lora_shardings(self._steps.forward.config, lora, self._mesh)

    def _of_moments(self, opt_state: Any, trainable: Params) -> Any:
        on_host = self._steps.learn.optimizer.moments_on_host

        def place(moment: Any, where: NamedSharding) -> NamedSharding:
            # some optimisers factor their moments: what has another rank than its weight has no axis to cut
            where = where if len(where.spec) <= moment.ndim else self._everywhere
            return where.with_memory_kind("pinned_host") if on_host else where

        return optax.tree.map_params(
            self._steps.optimizer, place, opt_state, trainable, transform_non_params=lambda _: self._everywhere
        )

    def of_zeros(self, trainable: Params) -> tuple[Any, Any]:
        """Each of these: arguments -> (shardings of the arguments, of the results), as `Program` asks."""
        where = self.of_state(TrainState(None, trainable, None, None, None)).trainable  # type: ignore[arg-type]
        return (where,), where

    def of_gradients(
        self, sums: Any, state: TrainState, micro: PackedBatch, m: Any, weight: Any, load: Any, *teacher: Any
    ) -> tuple[Any, Any]:
        assert self._mesh is not None
        everywhere, where = self._everywhere, self.of_state(state)
        taken = (
            None if sums is None else where.trainable,
            where,
            micro_shardings(micro, self._mesh),
            everywhere,
            everywhere,
            everywhere,
            *[None if weights is None else self._by_teachers_weight for weights in teacher],
        )
        return taken, (where.trainable, everywhere)

    def of_update(self, state: TrainState, grads: Params, metrics: Metrics) -> tuple[Any, Any]:
        where = self.of_state(state)
        return (where, where.trainable, self._everywhere), (where, self._everywhere)

    def of_load(self, state: TrainState, micro: PackedBatch, m: Any) -> tuple[Any, Any]:
        assert self._mesh is not None
        return (self.of_state(state), micro_shardings(micro, self._mesh), self._everywhere), self._everywhere

    def of_scoring(self, params: Params, lora: Any, micro: PackedBatch, temperature: Any) -> tuple[Any, Any]:
        assert self._mesh is not None
        of_lora = None if lora is None else self._of_lora(lora)
        return (self._by_weight, of_lora, micro_shardings(micro, self._mesh), self._everywhere), self._rows


def _moved(moments: Any, space: Any) -> Any:
    """The moments in another memory space (`jax.memory.Space`); the step counts beside them stay on the device."""
    return jax.tree.map(lambda x: jax.device_put(x, space) if x.ndim else x, moments)


def _positive(weight: Any) -> jax.Array:
    """A step's weight as a divisor: if all is masked, the gradient is 0, not NaN."""
    return jnp.maximum(weight, 1e-9)


def _zeros(trainable: Params) -> Params:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trainable)


def _added(
    sums: Params | None, loss: Callable[[Params], tuple[jax.Array, Metrics]], trainable: Params
) -> tuple[Params, Metrics]:
    """(the loss's gradient in float32, added to the sums of others; metrics)."""
    grads, metrics = jax.grad(loss, has_aux=True)(trainable)
    grads = cast(grads, "float32")
    return grads if sums is None else jax.tree.map(jnp.add, sums, grads), cast(metrics, "float32")
