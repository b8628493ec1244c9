"""Run questions, judge the answers, and sum up. Knows nothing of how the policy was made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.types import Question, StopReason
from hypereyes_jax.eval.metrics import Judged, StageSummary, VisualTokens, summarise, trajectory_tokens
from hypereyes_jax.rollout.types import Trajectory

OnEnd = Callable[[int, Trajectory], None]  # called with the place of a question and what became of it, as it ends


class Runner(Protocol):
    """Answers questions, one trajectory each, in their order."""

    def __call__(
        self, questions: Sequence[Question], on_end: OnEnd | None = None
    ) -> Awaitable[Sequence[Trajectory]]: ...


@dataclass(frozen=True)
class Evaluation:
    """The judged trajectories of a set of questions, and what they come to."""

    summary: StageSummary
    judged: tuple[Judged, ...]  # in the order of the questions


async def evaluate(
    run: Runner,
    questions: Sequence[Question],
    judge: Judge,
    *,
    visual_tokens: VisualTokens,
    judge_concurrency: int = 16,
) -> Evaluation:
    """Answer every question once and judge the answers.

    Args:
      run: answers the questions, one trajectory each, in order. It closes over engine, backend and episode settings
        (a serial policy is a runner whose episodes are serial).
      judge: asked only where there is an answer; no answer is wrong. `None` from it means an outage.
      visual_tokens: see `trajectory_tokens`.
      judge_concurrency: answers judged at a time.

    Returns:
      The summary and every judged trajectory. Infrastructure failures and judge outages are masked:
      counted apart, in no mean.

    Raises:
      ValueError: `run` did not return one trajectory a question, in order; nothing may be judged at a time.
    """
    if judge_concurrency < 1:
        raise ValueError(f"judge_concurrency must be at least 1, not {judge_concurrency}")
    start = time.perf_counter()
    trajectories = await run(questions)
    wall_seconds = time.perf_counter() - start
    question_ids, result_ids = [q.id for q in questions], [t.result.question.id for t in trajectories]
    if question_ids != result_ids:
        raise ValueError(
            f"the runner must return a trajectory a question, in order: {len(question_ids)} in, {len(result_ids)} out"
        )
    gate = asyncio.Semaphore(judge_concurrency)

    async def judged(trajectory: Trajectory) -> Judged:
        return await judge_trajectory(trajectory, judge, gate, visual_tokens)

    rows = tuple(await asyncio.gather(*map(judged, trajectories)))
    return Evaluation(summarise(rows, wall_seconds), rows)


async def judge_trajectory(
    trajectory: Trajectory, judge: Judge, gate: asyncio.Semaphore, visual_tokens: VisualTokens
) -> Judged:
    """What became of a trajectory. `gate` holds as many as the judge is asked about at a time."""
    correct, masked = await _verdict(trajectory, judge, gate)
    return Judged(trajectory, correct, masked, trajectory_tokens(trajectory, visual_tokens))


async def _verdict(trajectory: Trajectory, judge: Judge, gate: asyncio.Semaphore) -> tuple[bool | None, str]:
    result = trajectory.result
    if result.stop is StopReason.INFRASTRUCTURE:
        return None, "infrastructure"
    if result.answer is None:
        return False, ""
    async with gate:
        correct = await judge.judge(result.question, result.answer)
    return correct, "judge" if correct is None else ""
