"""One evaluation of a policy on one set of questions: play, judge, file the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hypereyes_jax.env.types import Question
from hypereyes_jax.eval.benchmark import evaluate
from hypereyes_jax.launch import miniature
from hypereyes_jax.launch.policy import Policy, runner
from hypereyes_jax.launch.progress import Stages
from hypereyes_jax.launch.results import save_evaluation
from hypereyes_jax.launch.run_dir import RunDirectory
from hypereyes_jax.launch.searching import Transport, searching

if TYPE_CHECKING:
    from hypereyes_jax.rollout import SamplingConfig

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
    timeline: bool = False,
) -> None:
    """Files the results under `name` and `split`.

    Args:
      latency: seconds a search takes.
      seed: of the sampling; each question adds its number.
      timeline: also write what each slot did and when.
    """
    from hypereyes_jax.env.judges import ExactJudge
    from hypereyes_jax.env.world import World
    from hypereyes_jax.rollout import Timeline

    judge = ExactJudge()
    episode = replace(miniature.EPISODE, serial=split.endswith(SERIAL))
    record = Timeline() if timeline else None
    async with searching(World.load(), search, latency) as backend:
        with stages.stage(f"evaluation of {name}, {split}", len(questions)) as stage:
            play = runner(
                policy, backend, episode, sampling, seed=seed, on_end=lambda *_: stage.advance(), timeline=record
            )
            done = await evaluate(play, questions, judge, visual_tokens=miniature.visual_tokens)
    if record is not None:
        record.write(directory.file(f"timeline-{split}.json"))
    save_evaluation(directory, name, split, done, judge=judge.name)
