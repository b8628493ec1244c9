"""Supervised fine-tuning on demonstrations, of adapters or of the weights themselves."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.numbers import check_numbers
from hypereyes_jax.configs.training import OptimizerConfig, Weighting
from hypereyes_jax.data.pipeline import Batches, PipelineConfig
from hypereyes_jax.data.sources import SourceOptions, source_objects
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.exchange import open_exchange
from hypereyes_jax.launch.global_arrays import initial_state, pack_for_all
from hypereyes_jax.launch.run_output import open_metrics
from hypereyes_jax.learner.checkpoint import Checkpoints, CheckpointSchedule, KeepPolicy
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.optax_pieces import own_pieces
from hypereyes_jax.learner.packing import pack, sft_sample
from hypereyes_jax.learner.state import weights
from hypereyes_jax.learner.step_batch import step_batch
from hypereyes_jax.models.lora import Lora, init_lora
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.processing.chat import ChatFormat
from hypereyes_jax.processing.types import Chunk
from hypereyes_jax.runs.own_objects import keep_own_objects
from hypereyes_jax.runs.stop import RunStopped
from hypereyes_jax.train.adapters import adapter_rules
from hypereyes_jax.train.demonstrations import open_demonstrations
from hypereyes_jax.train.finite import FiniteSteps
from hypereyes_jax.train.settings import SftSettings
from hypereyes_jax.train.sizes import MINIATURE_SFT, TrainingSizes
from hypereyes_jax.train.snapshots import Snapshots
from hypereyes_jax.train.step_monitor import StepMonitor, profiled
from hypereyes_jax.train.types import TrainingRun


def train(
    run: TrainingRun,
    model: Qwen3VLConfig,
    params: Params,
    chat: ChatFormat,
    demonstrations: str | Path,
    settings: SftSettings,
    sizes: TrainingSizes = MINIATURE_SFT,
    options: SourceOptions | None = None,
) -> tuple[Params, Lora | None]:
    """The base weights as they were, and the trained adapters; or trained weights and None, as the sizes say.

    Args:
      demonstrations: any source of them; rows that can't be used are left out and named unless `options` refuse them.

    Raises UserError for too few demonstrations, or a number that no setting can have.
    """
    check_numbers(settings, "settings.")
    check_numbers(sizes, "sizes.")
    processes, directory = run.processes, run.directory
    trajectories = open_demonstrations(demonstrations, chat, model, sizes, processes, run.stages.console, options)
    steps = len(trajectories) * settings.epochs // settings.batch
    if not steps:
        raise UserError(
            f"{len(trajectories)} demonstrations x {settings.epochs} epochs are fewer than one batch of "
            f"{settings.batch}: give more of them, or a lower --settings.batch"
        )
    optimizer = _optimizer(sizes, settings, steps)
    if processes.first:
        own = [*source_objects(str(demonstrations)), *own_pieces(optimizer)]
        keep_own_objects(directory.path, [{"role": role, **each.record()} for role, each in own])
    learner = make_learner(model, replace(sizes.learner, optimizer=optimizer), processes.mesh)
    mode, make_adapters = sizes.learner.train, None
    if mode == "lora":
        rules = adapter_rules(settings.lora_rank, settings.lora_alpha, settings.dropout)
        make_adapters = partial(init_lora, config=model, lora_config=rules)
    state = initial_state(processes.mesh, learner, settings.seed, params, make_adapters)
    monitor, finite = StepMonitor(model, mode), FiniteSteps()
    threads = settings.loader_threads or min(8, os.cpu_count() or 1)
    pipeline = PipelineConfig(settings.batch, settings.epochs, settings.seed, workers=threads)
    weighting: Weighting = "token-mean" if settings.weighting == "token" else "sequence-mean"
    packing = replace(sizes.pack(settings.batch // processes.count, processes.shards), weighting=weighting)

    def prepare(group: list[Sequence[Chunk]]) -> Any:
        samples = [sft_sample(chunks) for chunks in group]
        # ahead of time in a thread; several processes must first agree on shapes
        return step_batch(pack(model, samples, packing)) if processes.mesh is None else samples

    batches = Batches(trajectories, prepare, pipeline, processes.index, processes.count)
    keep = KeepPolicy(latest=sizes.keep_checkpoints)
    with (
        contextlib.closing(trajectories),
        contextlib.closing(batches),
        Checkpoints(directory.checkpoints("sft-checkpoints"), keep, directory.run) as checkpoints,
        open_exchange(processes, sizes.balance) as exchange,
    ):
        checkpoint = checkpoints.restore(state, run.resume_step)
        if checkpoint is not None:
            state, cursor = checkpoint
            if cursor.get("source", trajectories.fingerprint()) != trajectories.fingerprint():
                raise UserError(
                    f"{demonstrations} does not have the rows it had when {directory.path} was started: give the same "
                    "data, or another --out"
                )
            batches.restore(cursor["data"])
        first = int(state.step)
        schedule = CheckpointSchedule(settings.checkpoint_every, settings.checkpoint_minutes, steps)
        snapshots = run.write_model and Snapshots(directory, processes, run.write_model, settings.save_every, first)
        with run.stages.stage("SFT", steps) as stage, open_metrics(processes, directory, "sft", first) as log:
            stage.skip_to(first)
            for step in range(first, steps):
                batch = next(batches)
                began = time.perf_counter()
                with profiled(directory.file("profile"), step == run.profile_step):
                    if processes.mesh is not None:
                        batch = pack_for_all(processes, model, batch, packing, exchange=exchange)
                    monitor.check(batch, packing)
                    state, metrics = learner.sft_step(state, batch)
                    values = {name: float(value) for name, value in metrics.items()}
                seconds = time.perf_counter() - began
                log.log(step, {**values, "seconds": seconds, **monitor.figures(batch, seconds)})
                del batch  # most of a process's memory, and the next may have to be waited for
                stage.advance(loss=values["loss"])
                finite.check(step, values)
                if snapshots is not None:
                    snapshots.write_if_due(step + 1, *weights(state, mode))
                # All do the same: the first process's clock, and whoever was asked to stop, decide for all.
                decisions = processes.gather([schedule.is_due(step + 1), directory.stop.reason])
                reason = next((reason for _, reason in decisions if reason), "")
                if decisions[0][0] or reason:
                    checkpoints.save(state, {"data": batches.state(), "source": trajectories.fingerprint()})
                    schedule.written()
                if reason and step + 1 < steps:
                    raise RunStopped(f"stopped after step {step + 1} of {steps} ({reason}); it is saved.")
    return weights(state, mode)


def _optimizer(sizes: TrainingSizes, settings: SftSettings, steps: int) -> OptimizerConfig:
    return replace(
        sizes.learner.optimizer,
        learning_rate=settings.learning_rate,
        final_learning_rate=settings.learning_rate / 10,
        warmup_steps=max(1, steps // 20),
        total_steps=steps,
    )
