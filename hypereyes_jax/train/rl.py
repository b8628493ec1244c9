"""GRPO training of a policy: select questions, then train on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.reward import RewardConfig
from hypereyes_jax.data.sources import question_ids, subset
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.service import judging
from hypereyes_jax.env.search.config import SearchConfig, SearchKeys
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.services import connected
from hypereyes_jax.env.search.world_service import searching
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.checkpoint import weights_digest
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.distillation import teaching
from hypereyes_jax.train.question_selection import PASSES, Selection, read_selection, select, short_enough
from hypereyes_jax.train.rl_loop import RlLoop, Trial
from hypereyes_jax.train.samplers import Rollouts
from hypereyes_jax.train.settings import RlSettings, SelectionRule, TeacherServerConfig


def train(
    directory: RunDirectory,
    rollouts: Rollouts,
    model: Qwen3VLConfig,
    params: Params,
    candidates: Sequence[Question],
    teacher: str | Path | TeacherServerConfig | None,
    settings: RlSettings,
    stages: Stages,
    processes: Processes = Processes(),  # noqa: B008 - holds nothing that changes
    *,
    search: SearchConfig | None = None,
    judge: JudgeConfig | None = None,
    trial: Trial | None = None,
    profile_step: int | None = None,
    resume_step: int | None = None,
    reward: RewardConfig = RewardConfig(),
    tighten: Literal["epoch", "step"] = "epoch",
    rule: SelectionRule = SelectionRule(),  # noqa: B008 - frozen
) -> Params:
    """Select, train, and return the trained weights; the engines hold them, too.

    Args:
      params: the policy's, which the engines sample from. They are used up.
      teacher: what `teaching.choose` returned.
      search: None = the miniature world's, as the settings say.
      reward: what ranks the rollouts of a question.
      tighten: when better references come in force, as `rl.references.ReferenceStore`.
      rule: which candidates are trained on.

    Raises:
      RunStopped: the run was asked to stop; all that was done is saved.
      UserError: too few candidates are left, or the services that the selection needs do not work.
    """

    async def whole() -> Any:
        async with (
            teaching(teacher, model, rollouts, settings.prompts * settings.group, processes) as distillation,
            _searching(settings, search or SearchConfig()) as backend,
            judging(judge or JudgeConfig()) as answers_judge,
        ):
            most = rollouts.scale.prompt_tokens

            def tokens(question: Question) -> int:
                return rollouts.prompt_tokens(question, backend)

            short = short_enough(candidates, tokens, most, processes, stages)
            tried = trial
            if trial is not None:  # those that can be read; their prompts may have any length
                tried = trial._replace(questions=short_enough(trial.questions, lambda _: 0, most, processes, stages))
            chosen, references = await _choose(
                rule,
                short,
                settings.prompts,
                lambda: select(
                    directory,
                    rollouts,
                    short,
                    backend,
                    answers_judge,
                    settings.seed,
                    stages,
                    processes,
                    weights_digest(params),
                ),
            )
            loop = RlLoop(
                directory,
                rollouts,
                model,
                params,
                chosen,
                references,
                distillation,
                settings,
                backend,
                answers_judge,
                processes,
                tried,
                reward,
                tighten,
            )
            return await loop.train(stages, profile_step, resume_step)

    return asyncio.run(whole())


async def _choose(
    rule: SelectionRule, candidates: Sequence[Question], prompts: int, selection: Callable[[], Awaitable[Selection]]
) -> tuple[Sequence[Question], dict[str, tuple[int, int]]]:
    """The questions to train on and their initial references; `selection` is called only where it is needed.

    Raises UserError if they make no step.
    """
    if rule.references is not None:
        references = {key: (counts[0], counts[1]) for key, counts in read_selection(rule.references).items()}
        chosen = _known(candidates, references)
        why = f"{len(chosen)} of {len(candidates)} candidates stand in {rule.references}"
    elif not rule.select:
        references, chosen = {}, candidates
        why = f"there are {len(chosen)} candidates"
    else:
        selected = await selection()
        references = selected.references
        chosen = _known(candidates, references)
        why = (
            f"only {len(chosen)} of {len(candidates)} candidates fail at first and succeed within {PASSES} tries"
            f"{f' ({selected.reasons()})' if selected.left_out else ''}"
        )
    if len(chosen) < prompts:
        raise UserError(
            f"{why}, fewer than the {prompts} questions of a step. Give more candidates, or a lower "
            "--settings.prompts, in another run directory."
        )
    return chosen, references


def _known(candidates: Sequence[Question], references: dict[str, tuple[int, int]]) -> Sequence[Question]:
    """The candidates that have a reference, unopened if they come from a source."""
    return subset(candidates, [number for number, key in enumerate(question_ids(candidates)) if key in references])


@contextlib.asynccontextmanager
async def _searching(settings: RlSettings, search: SearchConfig) -> AsyncIterator[RecordedBackend]:
    """The seen part of the miniature world, or the service of real searches."""
    if search.service != "world":
        keys = SearchKeys(
            serpapi=os.environ.get("SERPAPI_API_KEY", ""),
            s3_access=os.environ.get("AWS_ACCESS_KEY_ID", ""),
            s3_secret=os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        )
        async with connected(search, keys) as (backend, _):
            yield backend
        return
    world = World.load()
    seen = world.restrict(world.split()[0], passages=True)
    async with searching(
        seen, settings.search, settings.latency, settings.search_store, settings.search_mode
    ) as backend:
        yield backend
