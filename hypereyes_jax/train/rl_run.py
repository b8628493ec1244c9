"""GRPO training of a policy: select questions, then train on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.numbers import check_numbers
from hypereyes_jax.data.sources import question_ids, subset
from hypereyes_jax.env.judging.own import own_judge
from hypereyes_jax.env.judging.service import judging
from hypereyes_jax.env.search.budget import RunShare
from hypereyes_jax.env.search.config import SearchConfig, SearchKeys
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.services import connected
from hypereyes_jax.env.types import Question, SearchBackend
from hypereyes_jax.env.world import World
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json_object, write_json
from hypereyes_jax.learner.checkpoint import weights_digest
from hypereyes_jax.models.lora import Lora
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.runs.own_objects import keep_own_objects
from hypereyes_jax.train.distillation import open_distillation
from hypereyes_jax.train.method import RlMethod, load_method, own_records
from hypereyes_jax.train.open_run import OpenRun, OpenServices
from hypereyes_jax.train.question_selection import PASSES, Selection, read_selection, select, short_enough
from hypereyes_jax.train.rl_loop import RlLoop
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.settings import RlSettings, SelectionRule
from hypereyes_jax.train.types import RlQuestions, RlServices, SelectedQuestions, TrainingRun


def train(
    run: TrainingRun,
    rollouts: RolloutEngines,
    model: Qwen3VLConfig,
    params: Params,
    questions: RlQuestions,
    settings: RlSettings,
    services: RlServices = RlServices(),  # noqa: B008 - frozen
    method: RlMethod = RlMethod(),  # noqa: B008 - frozen
) -> tuple[Params, Lora | None]:
    """Select, train, and return the weights; the engines hold them, too.

    Where adapters train, the weights are as they were, and the adapters come beside them.

    Args:
      params: the policy's, which the engines sample from. They are used up.

    Raises:
      RunStopped: the run was asked to stop; all that was done is saved.
      UserError: too few candidates are left, the services that the selection needs do not work, a number is one that no
        setting can have, or a user's own part of the method can't be used, or has changed since the run was
        begun.
    """
    sizes = rollouts.sizes
    for name, group in {"settings": settings, "sizes": sizes, "services": services, "reward": method.reward}.items():
        check_numbers(group, f"{name}.")
    parts = load_method(method, sizes.learner, sizes.episode, settings.metrics)
    if run.processes.first:
        own = method, sizes.learner, sizes.episode, services.search, services.judge, settings.metrics
        records = own_records(*own, questions.sources)
        keep_own_objects(run.directory.path, records)
    rollouts.equip(method.own.tools, method.own.prompt)
    open_run = OpenRun(run, rollouts, model, settings, method, parts)
    return asyncio.run(_train(open_run, params, questions, services))


async def _train(
    opened: OpenRun, params: Params, questions: RlQuestions, services: RlServices
) -> tuple[Params, Lora | None]:
    """Does what `train` does, with the services open."""
    run, rollouts, settings, own = opened.run, opened.rollouts, opened.settings, opened.method.own
    samples = settings.prompts * settings.group
    async with (
        open_distillation(services.teacher, opened.model, rollouts, samples, run.processes) as distillation,
        _searching(services.search, search_share(run), own.search) as backend,
        judging(services.judge) as named_judge,
    ):
        judge = named_judge if own.judge is None else await own_judge(own.judge)
        longest = rollouts.sizes.prompt_tokens

        def tokens(question: Question) -> int:
            return rollouts.prompt_tokens(question, backend)

        candidates = short_enough(questions.candidates, tokens, longest, run.processes, run.stages)
        validation = questions.validation
        if validation is not None:  # those that can be read; their prompts may have any length
            readable = short_enough(validation.questions, lambda _: 0, longest, run.processes, run.stages)
            validation = replace(validation, questions=readable)

        async def selection() -> Selection:
            policy, rule = weights_digest(params), questions.rule
            return await select(run, rollouts, candidates, backend, judge, settings.seed, policy, rule.first_reference)

        pool, references = await _choose(questions.rule, candidates, settings.questions_played, selection)
        selection_of_run = SelectedQuestions(pool, references, validation)
        return await RlLoop(opened, params, selection_of_run, OpenServices(backend, judge, distillation)).train()


async def _choose(
    rule: SelectionRule, candidates: Sequence[Question], prompts: int, selection: Callable[[], Awaitable[Selection]]
) -> tuple[Sequence[Question], dict[str, tuple[int, int]]]:
    """The questions to train on and their initial references; `selection` is called only where it is needed.

    Raises UserError if they make no step.
    """
    if rule.references is not None:
        references = {key: (counts[0], counts[1]) for key, counts in read_selection(rule.references).items()}
        pool = _known(candidates, references)
        why = f"{len(pool)} of {len(candidates)} candidates stand in {rule.references}"
    elif not rule.select:
        references, pool = {}, candidates
        why = f"there are {len(pool)} candidates"
    else:
        selection_result = await selection()
        references = selection_result.references
        pool = _known(candidates, references)
        why = (
            f"only {len(pool)} of {len(candidates)} candidates fail at first and succeed within {PASSES} tries"
            f"{f' ({selection_result.reasons()})' if selection_result.left_out else ''}"
        )
    if len(pool) < prompts:
        raise UserError(
            f"{why}, fewer than the {prompts} questions of a step. Give more candidates, or a lower "
            "--settings.prompts, in another run directory."
        )
    return pool, references


def _known(candidates: Sequence[Question], references: dict[str, tuple[int, int]]) -> Sequence[Question]:
    """The candidates that have a reference, unopened if they come from a source."""
    return subset(candidates, [number for number, key in enumerate(question_ids(candidates)) if key in references])


def search_share(run: TrainingRun) -> RunShare:
    """The process's place among those that play. The run's name is kept in its directory: continued, it goes on with
    what it has spent. Raises UserError in all processes if the first can't keep it."""
    processes, name, problem = run.processes, "", ""
    if processes.first:
        try:
            name = _budget_name(run.directory.file("search_budget.json"))
        except UserError as error:
            problem = str(error)
    name, problem = processes.gather([name, problem])[0]
    if problem:
        raise UserError(problem)
    replicas = processes.replicas
    place = replicas.drivers.index(processes.index) if replicas.drives else 0
    return RunShare(place, len(replicas.drivers), name)


def _budget_name(path: Path) -> str:
    previous = read_json_object(path).get("name") if path.exists() else None
    if isinstance(previous, str) and previous:
        return previous
    name = uuid.uuid4().hex
    write_json(path, {"name": name})
    return name


@contextlib.asynccontextmanager
async def _searching(
    search: SearchConfig, share: RunShare, own: SearchBackend | None
) -> AsyncIterator[RecordedBackend]:
    """The service that is searched, or a user's own backend; of the miniature's world, only the part that is seen."""
    training_world: World | None = None
    if search.service == "world" and own is None:
        training_world = World.load().training_world
    async with connected(search, SearchKeys.of(os.environ), share, own, training_world) as (backend, _):
        yield backend
