"""Selection before RL: the questions that the policy fails at once and solves within five tries.

Each try is stored as it is made (`train.try_log`), so that a run that ends early, or was hit by an outage, makes only
the tries that are missing. A try that an outage spoilt says nothing of its question: it is made again, and a question
whose tries can't be made is undecided, never left out for good.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hypereyes_jax.data.question_digest import try_key
from hypereyes_jax.data.selection import FirstReference, LeftOut, Try, initial_reference, is_informative, is_settled
from hypereyes_jax.data.sources import Questions, RowError, question_ids, stated_references, subset
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.types import Question, SearchBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import json_digest, json_kind, read_json_object, write_json
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.runs.memory import give_back
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory, to_jsonable
from hypereyes_jax.runs.stop import RunStopped, StopRequest
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.try_log import TryLog
from hypereyes_jax.train.types import TrainingRun

SELECTION = "rl_selection.json"  # what came of it: references of the chosen, and why the others are out
TRIES = "rl_tries.jsonl"
PASSES = 5  # the paper's pass@5
_AT_A_TIME = 512  # episodes, after which memory is given back
_ROUNDS = 2  # what an outage spoilt is tried once more before the end
_MOST_UNDECIDED = 0.05  # of the candidates, with which training may begin
T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """What came of the candidates."""

    references: dict[str, tuple[int, int]]  # initial (rounds, invocations) of each chosen question, by its id
    left_out: dict[str, str] = field(default_factory=dict)  # why each other question is not trained on

    @property
    def undecided(self) -> int:
        return sum(why == LeftOut.UNDECIDED for why in self.left_out.values())

    def reasons(self) -> str:
        """Why how many are left out, for a person."""
        return "; ".join(f"{count}: {why}" for why, count in Counter(self.left_out.values()).most_common())


async def select(
    run: TrainingRun,
    rollouts: RolloutEngines,
    candidates: Sequence[Question],
    backend: SearchBackend,
    judge: Judge,
    seed: int,
    policy: str = "",
    first_reference: FirstReference = "cheapest",
) -> Selection:
    """The chosen questions with their initial references; from the run's directory if it was done there.

    A question whose data state its reference is chosen with it, untried. Each process that plays tries its share of the
    other candidates; all get all that were chosen.

    Args:
      policy: digest of the policy's weights; tries of others do not count.
      first_reference: which success of the tries the reference is of, as `initial_reference`.

    Raises:
      RunStopped: any process was asked to stop. What was tried is stored.
      UserError: more than a twentieth of the candidates is undecided; the same command tries those again.
    """
    directory, stages, processes = run.directory, run.stages, run.processes
    counts_by_key = _stored_counts(directory, processes)
    if counts_by_key is not None:
        return Selection({key: (counts[0], counts[1]) for key, counts in counts_by_key.items()})
    references = stated_references(candidates)
    if references:
        stages.console.print(f"{len(references)} questions state the rounds and searches they need, and are not tried")
    all_ids = question_ids(candidates)
    candidates = subset(candidates, [number for number, key in enumerate(all_ids) if key not in references])
    mine = processes.replicas.part(candidates)
    ids = question_ids(mine)
    seeds = processes.replicas.part(rollout_seeds(seed, 0, PASSES * len(candidates)).reshape(-1, PASSES))
    keys = [try_key(question) for question in mine]
    stem, dot, ending = TRIES.rpartition(".")
    log = TryLog(
        _policy_key(policy, rollouts, judge),
        directory.file(processes.own_name(TRIES)),
        sorted(directory.path.glob(f"{stem}*{dot}{ending}")),
    )

    async def attempt_all() -> None:
        with stages.stage("selection", PASSES * len(mine)) as stage:
            # All are tried once; those that succeed are out, so only the others cost their further tries.
            for attempts in (range(1), range(1, PASSES)) * _ROUNDS:
                plays = [(n, a) for n in range(len(mine)) for a in attempts if _is_missing(log, keys[n], a)]
                stage.done = PASSES * len(mine) - _missing(log, keys)
                for first in range(0, len(plays), _AT_A_TIME):
                    if directory.stop.reason:
                        return
                    await _play(plays[first : first + _AT_A_TIME], stage.advance)

    async def _play(plays: Sequence[tuple[int, int]], advance: Any) -> None:
        async def store(number: int, attempt: int, trajectory: Trajectory) -> None:
            (verdict,) = await verdicts(judge, [trajectory])
            attempt_result = Try.of(trajectory.result, verdict if trajectory.result.answer is not None else False)
            log.add(keys[number], attempt, attempt_result, ids[number])
            advance()

        questions = [mine[number] for number, _ in plays]
        try:
            async with asyncio.TaskGroup() as stores:  # a full disk ends the play at once, not after 512 episodes

                def on_end(place: int, trajectory: Trajectory) -> None:
                    stores.create_task(store(*plays[place], trajectory))

                play = rollouts.play(questions, backend, [int(seeds[place]) for place in plays], on_end=on_end)
                await unless_stopped(directory.stop, play)  # episodes that ended are still judged and stored
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        give_back()  # without it the process grew by 5 GiB over 4,000 episodes

    await attempt_all()
    await rollouts.finish_plays()
    reason = processes.first_reason(directory.stop.reason)
    if reason:
        raise RunStopped(f"stopped in the selection ({reason}). Its tries are stored; the same command continues.")
    mine_by_id = dict(zip(ids, keys, strict=True))
    return _agree(directory, references, mine_by_id, log, processes, stages, first_reference)


def _stored_counts(directory: RunDirectory, processes: Processes) -> dict[str, list[int]] | None:
    """What the run's selection came to, if it was made. Raises UserError in all processes if it can't be used."""
    path, counts_by_key, problem = directory.file(SELECTION), None, None
    if processes.first and os.path.lexists(path):
        try:
            directory.refuse_other_run(path, read_json_object(path).get("run", ""))
            counts_by_key = read_selection(path)
        except UserError as error:
            problem = str(error)
    counts_by_key, problem = processes.gather([counts_by_key, problem])[0]
    if problem is not None:
        raise UserError(problem)
    return counts_by_key


def _agree(
    directory: RunDirectory,
    stated: dict[str, tuple[int, int]],
    keys: dict[str, str],
    log: TryLog,
    processes: Processes,
    stages: Stages,
    first_reference: FirstReference,
) -> Selection:
    """The selection of all processes, written by the first.

    Args:
      stated: references that the data state.
      keys: of this process's candidates, by id.

    Raises UserError if too much of it is undecided.
    """
    references = dict(stated)
    left_out: dict[str, str] = {}
    for name, key in keys.items():
        outcome = initial_reference([log.get(key, attempt) for attempt in range(PASSES)], first_reference)
        if isinstance(outcome, LeftOut):
            left_out[name] = outcome.value
        else:
            references[name] = outcome
    own = [{key: list(counts) for key, counts in references.items()}, left_out]
    for others, others_out in processes.gather(own):
        references |= {key: (counts[0], counts[1]) for key, counts in others.items()}
        left_out |= others_out
    selection = Selection(references, left_out)
    total = len(references) + len(left_out)
    reasons = f"; left out: {selection.reasons()}" if left_out else ""
    stages.console.print(
        f"{len(references)} of {total} candidates are trained on{reasons}", highlight=False, markup=False
    )
    if selection.undecided > _MOST_UNDECIDED * total:
        raise UserError(
            f"{selection.undecided} of {total} candidates could not be tried, because searches or the judge failed. "
            "See to the services, then run the same command again: it makes only the tries that are missing."
        )
    if processes.first:
        counts_by_key = {key: list(counts) for key, counts in references.items()}
        selection_record = {"run": directory.run, "references": counts_by_key, "left_out": left_out}
        write_json(directory.file(SELECTION), selection_record)
    return selection


def read_selection(path: Path) -> dict[str, list[int]]:
    """Initial references by question id: of a run's `rl_selection.json`, or a JSON object {id: [rounds, invocations]}.

    Raises:
      UserError: the file can't be read, or holds something else; names the question.
    """
    document = read_json_object(path)
    references = document.get("references", document)
    if not isinstance(references, dict):
        raise UserError(f"{path}: 'references' must be an object, not {json_kind(references)}.")
    for key, counts in references.items():
        numbers = isinstance(counts, list) and len(counts) == 2
        if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in counts):
            raise UserError(
                f"{path}: the reference of {key!r} must be [rounds, invocations], two whole numbers from 1."
            )
    return references


def short_enough(
    candidates: Sequence[Question],
    tokens: Callable[[Question], int],
    most: int,
    processes: Processes,
    stages: Stages,
) -> Sequence[Question]:
    """The candidates whose prompts have at most so many tokens; the others are counted, and those unreadable named.

    Each process looks through its share, one question at a time.

    Raises RowError for a question whose pictures can't be read, if its source refuses such rows.
    """
    longer, broken = [], []
    for number in range(processes.index, len(candidates), processes.count):
        try:
            if tokens(candidates[number]) > most:
                longer.append(number)
        except RowError as error:
            if isinstance(candidates, Questions) and candidates.options.bad_rows == "refuse":
                raise
            broken.append((number, str(error)))
    everyone = processes.gather([longer, broken])
    left_out = {number for numbers, _ in everyone for number in numbers}
    if left_out:
        stages.console.print(f"{len(left_out)} questions have prompts of more than {most} tokens and are left out")
    unread = [row for _, rows in everyone for row in rows]
    if unread:
        stages.console.print(f"{len(unread)} questions can't be read and are left out; the first: {min(unread)[1]}")
    left_out |= {number for number, _ in unread}
    return subset(candidates, [number for number in range(len(candidates)) if number not in left_out])


async def unless_stopped(stop: StopRequest, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` gives, or None if a stop was asked for before its end; it is cancelled then."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    with stop.calling(lambda: loop.call_soon_threadsafe(task.cancel)):
        try:
            return await task
        except asyncio.CancelledError:
            if not stop.reason:  # somebody else cancelled it: Ctrl-C
                raise
            return None


async def verdicts(judge: Judge, trajectories: Sequence[Trajectory]) -> list[bool | None]:
    """The judge's verdicts; None where there is nothing to judge, or the judge gave no verdict."""

    async def verdict(trajectory: Trajectory) -> bool | None:
        result = trajectory.result
        return None if result.answer is None else await judge.judge(result.question, result.answer)

    return list(await asyncio.gather(*map(verdict, trajectories)))


def rollout_seeds(seed: int, step: int, count: int) -> np.ndarray:
    """The seeds of `count` rollouts, over all processes; step 0 is the selection."""
    return np.random.SeedSequence([seed, step]).generate_state(count)


def _policy_key(weights: str, rollouts: RolloutEngines, judge: Judge) -> str:
    """Digest of all that a try depends on beside its question: weights, sampling, rules of episodes, judge."""
    sizes = rollouts.sizes
    rules = [weights, to_jsonable(sizes.sampling()), to_jsonable(sizes.episode), sizes.context, judge.name]
    return json_digest(rules)


def _is_missing(log: TryLog, key: str, attempt: int) -> bool:
    """Whether a try is to be made: it was not, and it may still decide something."""
    first = log.get(key, 0)
    if attempt > 0 and (not is_informative(first) or is_settled([first])):
        return False
    return log.get(key, attempt) is None


def _missing(log: TryLog, keys: Sequence[str]) -> int:
    """Tries that are not made yet of questions that are not decided by their first one."""
    return sum(
        log.get(key, attempt) is None for key in keys if not is_settled([log.get(key, 0)]) for attempt in range(PASSES)
    )
