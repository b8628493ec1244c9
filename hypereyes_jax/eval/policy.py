"""A policy that can be asked: the weights, engines and chat format of a checkpoint, playing episodes with a backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Question, SearchBackend
from hypereyes_jax.eval.benchmark import Runner
from hypereyes_jax.eval.compile_time import CompileClock
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.rollout import Timeline, Trajectory, run_episodes
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory


class Policy(NamedTuple):
    engines: Engines
    chat: ChatFormat


class EvaluationRun(NamedTuple):
    """Where the results of an evaluation go, and who sees its progress."""

    directory: RunDirectory
    stages: Stages
    name: str  # of the policy: its results are filed under it


def load_policy(checkpoint: str | Path, settings: EngineConfig, *, dtype: Any = "float32") -> Policy:
    """Load a checkpoint (a directory in HF layout, a hub id or a URL) into engines.

    Raises:
      UserError: it is not such a directory, or it is damaged.
    """
    config, params, chat = load_model(checkpoint, dtype)
    return Policy(Engines.on_one_device(config, params, settings), chat)


def runner(
    policy: Policy,
    backend: SearchBackend,
    episode: EpisodeConfig,
    sampling: SamplingConfig,
    *,
    seed: int = 0,
    on_end: Callable[[int, Trajectory], None] | None = None,
    timeline: Timeline | None = None,
) -> Runner:
    """What `evaluate` runs: one episode a question, each with a seed of its own (`seed` + its number).

    The seconds of a trajectory are without those in which programs were compiled while it was under way.
    """

    async def run(questions: Sequence[Question]) -> list[Trajectory]:
        episodes = [Episode(question, backend, episode) for question in questions]
        seeds = [seed + number for number in range(len(episodes))]
        ends: dict[int, float] = {}

        def ended(number: int, trajectory: Trajectory) -> None:
            ends[number] = time.perf_counter()
            if on_end is not None:
                on_end(number, trajectory)

        with CompileClock() as clock:
            async with policy.engines.running(timeline=timeline) as generator:
                played = await run_episodes(
                    generator, episodes, policy.chat, sampling, seeds, on_end=ended, timeline=timeline
                )
        compiling = [clock.seconds_between(ends[n] - each.seconds, ends[n]) for n, each in enumerate(played)]
        return [replace(each, seconds=each.seconds - spent) for each, spent in zip(played, compiling, strict=True)]

    return run
