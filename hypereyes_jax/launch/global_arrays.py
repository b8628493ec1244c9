"""Arrays of all devices: one step's batch, the state before the first step, and trees fetched whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.launch.exchange import SampleExchange
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.balance import balance, stay
from hypereyes_jax.learner.global_batch import global_batch
from hypereyes_jax.learner.learner import Learner
from hypereyes_jax.learner.packing import TrainingSample, pack, sample_tokens
from hypereyes_jax.learner.state import TrainState
from hypereyes_jax.learner.step_batch import StepBatch, step_batch
from hypereyes_jax.models.qwen3_vl import Params


def pack_for_all(
    processes: Processes,
    model: Qwen3VLConfig,
    samples: Sequence[TrainingSample],
    config: PackConfig,
    left_out: Sequence[TrainingSample] = (),
    exchange: SampleExchange | None = None,
) -> StepBatch:
    """One step's data: this process's samples, packed for its shards, as its part of all processes' step.

    Every process must call it.

    Args:
      exchange: sends samples to the processes that have room for them, where that makes the step shorter; without one,
        each process packs its own.
    """
    if processes.mesh is None:
        return step_batch(pack(model, samples, config, left_out))
    lengths = processes.gather([int(sample_tokens(model, sample, config)) for sample in samples])
    plan = (stay if exchange is None else balance)(lengths, config.row_lengths, config.rows)
    if exchange is not None:
        samples = exchange(samples, plan.owners)
    least = max(plan.micro_batches, config.at_least[0])
    config = replace(config, row_length=plan.row_length, micro_batches=least)
    batch = pack(model, samples, config, left_out)
    # All must have the same arrays: of the largest size that any of them needs.
    own = list(batch.inputs.vision.segment_RL.shape[1:])
    has_teacher = batch.teacher_logp_MBT is not None
    *most, any_scored = np.max(processes.gather([*own, int(has_teacher)]), axis=0).tolist()
    common = replace(config, vision=(most[0], most[1]))
    if most != own:
        batch = pack(model, samples, common, left_out)
    if any_scored and not has_teacher:
        batch = batch.replace(teacher_logp_MBT=np.full(batch.weight_MBT.shape, np.nan, np.float32))
    return global_batch(processes.mesh, batch, common)


def initial_state(
    mesh: Mesh | None,
    learner: Learner,
    seed: int,
    params: Params,
    adapters: Callable[[jax.Array, Params], Any] | None = None,
) -> TrainState:
    """The state before the first step, in its place on the mesh. `params` are used up there.

    Args:
      adapters: makes those to train from a key and the weights.
    """

    def make(params: Params) -> TrainState:
        key, adapters_key = jax.random.split(jax.random.key(seed))
        if adapters is None:
            return learner.init(jax.random.key(seed), params)
        return learner.init(key, params, adapters(adapters_key, params))

    if mesh is None:
        return make(params)
    assert learner.shardings is not None
    where = learner.shardings(jax.eval_shape(make, params))
    return jax.jit(make, out_shardings=where, donate_argnums=0)(params)


def fetch_whole(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays of the mesh, small ones, as arrays of this process's first device alone. Every process must call it."""
    if mesh is None:
        return tree
    device = jax.local_devices()[0]

    def fetch(x: jax.Array) -> jax.Array:
        whole = x if x.is_fully_addressable else process_allgather(x, tiled=True)
        return jax.device_put(np.asarray(whole), device)

    return jax.tree.map(fetch, tree)
