"""One evaluation of a policy on one set of questions: play, judge, file the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from hypereyes_jax import miniature
from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.judging.judges import ExactJudge, Judge
from hypereyes_jax.env.search.config import StoreMode, Transport
from hypereyes_jax.env.search.world_service import searching
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.benchmark import evaluate
from hypereyes_jax.eval.policy import Policy, runner
from hypereyes_jax.eval.tables import save_evaluation
from hypereyes_jax.processing.lengths import visual_tokens
from hypereyes_jax.rollout import Timeline
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory

SERIAL = "_serial"  # a split of this ending is played with one search a turn


async def evaluate_split(
    directory: RunDirectory,
    policy: Policy,
    name: str,
    split: str,
    questions: Sequence[Question],
    stages: Stages,
    *,
    sampling: SamplingConfig,
    search: Transport,
    latency: float,
    seed: int,
    store: Path | None = None,
    mode: StoreMode = StoreMode.REPLAY_THEN_LIVE,
    judge: Judge | None = None,
) -> None:
    """Files the results under `name` and `split`, with how the searches went and how the engine's time was used.

    What each slot did and when goes to `timeline-NAME-SPLIT.json`.

    Args:
      latency: seconds a search takes.
      seed: of the sampling; each question adds its number.
      store, mode: see `searching`.
      judge: default `ExactJudge`.
    """
    judge = judge or ExactJudge()
    episode = replace(miniature.EPISODE, serial=split.endswith(SERIAL))
    timeline = Timeline()
    async with searching(World.load(), search, latency, store, mode) as backend:
        with stages.stage(f"evaluation of {name}, {split}", len(questions)) as stage:
            play = runner(
                policy, backend, episode, sampling, seed=seed, on_end=lambda *_: stage.advance(), timeline=timeline
            )
            visual = partial(visual_tokens, min_pixels=miniature.MIN_PIXELS, max_pixels=miniature.MAX_PIXELS)
            done = await evaluate(play, questions, judge, visual_tokens=visual)
    timeline.write(directory.file(f"timeline-{name}-{split}.json"))
    costs = {"search": backend.metrics.summary(), "engine": timeline.utilisation()}
    save_evaluation(directory, name, split, done, judge=judge.name, costs=costs)
