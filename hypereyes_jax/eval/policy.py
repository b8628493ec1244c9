"""A policy that can be asked: the weights, engines and chat format of a checkpoint, playing episodes with a backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from hypereyes_jax.configs.mesh_text import read_mesh
from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Question, SearchBackend
from hypereyes_jax.eval.benchmark import OnEnd, Runner
from hypereyes_jax.eval.compile_time import CompileClock
from hypereyes_jax.models.hub import locate
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.models.qwen3_vl.checkpoint import read_model_config
from hypereyes_jax.models.sharding import make_mesh
from hypereyes_jax.models.storage import open_directory
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.rollout import Engine, Timeline, Trajectory, run_episodes
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory


class Policy(NamedTuple):
    """A model that is evaluated: its engines and its chat format."""

    engines: Engines
    chat: ChatFormat


class EvaluationRun(NamedTuple):
    """Where the results of an evaluation go, and who sees its progress."""

    directory: RunDirectory
    stages: Stages
    name: str  # of the policy: its results are filed under it


def load_policy(
    checkpoint: str | Path,
    settings: EngineConfig,
    *,
    dtype: Any = "float32",
    mesh: str = "",
    replica_devices: int = 0,
) -> Policy:
    """Load a checkpoint (a directory in HF layout, a hub id or a URL) into engines.

    Args:
      mesh: shares the weights out over this process's devices (`configs.mesh_text.read_mesh`), with an engine on each
        replica of them; none = one device.
      replica_devices: of one engine, as `rollout.replicas.layout.replica_size`.

    Raises:
      UserError: it is not such a directory, it is damaged, or the mesh does not suit it.
    """
    if not mesh:
        config, params, chat = load_model(checkpoint, dtype)
        return Policy(Engines.on_one_device(config, params, settings), chat)
    config = read_model_config(open_directory(locate(checkpoint)))[1]
    devices = jax.devices()
    sampler_mesh = make_mesh(read_mesh(mesh, config, len(devices)), devices)
    config, params, chat = load_model(checkpoint, dtype, sampler_mesh)
    copies = ReplicaWeights(config, sampler_mesh, dtype, replica_devices)
    weights = list(zip(copies(params), copies.meshes, strict=True))
    del params  # the engines have theirs
    return Policy(Engines([Engine(config, own, settings, mesh=replica) for own, replica in weights]), chat)


def runner(
    policy: Policy,
    backend: SearchBackend,
    episode: EpisodeConfig,
    sampling: SamplingConfig,
    *,
    seed: int = 0,
    seeds: Callable[[Question], int] | None = None,
    on_end: OnEnd | None = None,
    timeline: Timeline | None = None,
) -> Runner:
    """What `evaluate` runs: one episode a question, each with a seed of its own.

    Args:
      seed: a question's is this + its number.
      seeds: gives a question's instead, so that it does not depend on which others are asked with it.
      on_end: called as each ends, beside the one that a call is given.

    The seconds of a trajectory are without those in which programs were compiled while it was under way.
    """

    always = on_end

    async def run(questions: Sequence[Question], on_end: OnEnd | None = None) -> list[Trajectory]:
        episodes = [Episode(question, backend, episode) for question in questions]
        own = [seed + number for number in range(len(episodes))] if seeds is None else [seeds(q) for q in questions]
        ends: dict[int, float] = {}

        def ended(number: int, trajectory: Trajectory) -> None:
            ends[number] = time.perf_counter()
            for call in (always, on_end):
                if call is not None:
                    call(number, trajectory)

        with CompileClock() as clock:
            async with policy.engines.running(timeline=timeline) as generator:
                trajectories = await run_episodes(
                    generator, episodes, policy.chat, sampling, own, on_end=ended, timeline=timeline
                )
        compiling = [clock.seconds_between(ends[n] - each.seconds, ends[n]) for n, each in enumerate(trajectories)]
        return [
            replace(each, seconds=each.seconds - seconds) for each, seconds in zip(trajectories, compiling, strict=True)
        ]

    return run
