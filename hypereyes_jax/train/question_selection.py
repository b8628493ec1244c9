"""Selection before RL: the questions that the policy fails at once and solves within five tries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from hypereyes_jax.data.selection import Try, initial_reference, settled
from hypereyes_jax.data.sources import Questions, RowError, question_ids, stated_references, subset
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.types import Question, SearchBackend
from hypereyes_jax.files import read_json, write_json
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.runs.memory import give_back
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.samplers import Rollouts

SELECTION = "rl_selection.json"  # question id -> initial (rounds, invocations)
PASSES = 5  # the paper's pass@5
_AT_A_TIME = 512  # episodes, after which memory is given back


async def select(
    directory: RunDirectory,
    rollouts: Rollouts,
    candidates: Sequence[Question],
    backend: SearchBackend,
    judge: Judge,
    seed: int,
    stages: Stages,
    processes: Processes,
) -> dict[str, tuple[int, int]]:
    """The initial reference (rounds, invocations) of each chosen question; from the run's directory if it is there.

    A question whose data state its reference is chosen with it, untried. Each process that plays tries its share of the
    other candidates; all get all that were chosen.
    """
    path = directory.file(SELECTION)
    found = processes.gather(read_json(path) if processes.first and path.exists() else None)[0]
    if found is not None:
        return {key: tuple(counts) for key, counts in found.items()}
    stated = stated_references(candidates)
    if stated:
        stages.console.print(f"{len(stated)} questions state the rounds and searches they need, and are not tried")
    ids = question_ids(candidates)
    candidates = subset(candidates, [number for number, key in enumerate(ids) if key not in stated])
    mine = processes.part(candidates)
    seeds = processes.part(rollout_seeds(seed, 0, PASSES * len(candidates)).reshape(-1, PASSES))
    tries: list[list[Try]] = [[] for _ in range(len(mine))]
    with stages.stage("selection", PASSES * len(mine)) as stage:
        # All are tried once; those that succeed are out, so only the others cost their further tries.
        for wave in (range(1), range(1, PASSES)):
            open_ = [number for number, made in enumerate(tries) if not settled(made)]
            stage.advance(len(wave) * (len(mine) - len(open_)))
            plays = [(number, attempt) for number in open_ for attempt in wave]
            for first in range(0, len(plays), _AT_A_TIME):
                part = plays[first : first + _AT_A_TIME]
                asked = [mine[number] for number, _ in part]
                part_seeds = [int(seeds[place]) for place in part]
                played, _ = await rollouts.play(asked, backend, part_seeds, advance=stage.advance)
                for (number, _), trajectory, verdict in zip(part, played, await verdicts(judge, played), strict=True):
                    result = trajectory.result
                    tries[number].append(Try.of(result, verdict if result.answer is not None else False))
                give_back()  # without it the process grew by 5 GiB over 4,000 episodes
    await rollouts.rest()
    references = stated
    for key, made in zip(question_ids(mine), tries, strict=True):
        reference = initial_reference(made)
        if reference is not None:
            references[key] = reference
    for others in processes.gather({key: list(counts) for key, counts in references.items()}):
        references |= {key: tuple(counts) for key, counts in others.items()}
    if processes.first:
        write_json(path, {key: list(counts) for key, counts in references.items()})
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
    told = processes.gather([longer, broken])
    left_out = {number for numbers, _ in told for number in numbers}
    if left_out:
        stages.console.print(f"{len(left_out)} questions have prompts of more than {most} tokens and are left out")
    unread = [row for _, rows in told for row in rows]
    if unread:
        stages.console.print(f"{len(unread)} questions can't be read and are left out; the first: {min(unread)[1]}")
    left_out |= {number for number, _ in unread}
    return subset(candidates, [number for number in range(len(candidates)) if number not in left_out])


async def verdicts(judge: Judge, played: Sequence[Trajectory]) -> list[bool | None]:
    """None where there is nothing to judge, or the judge could not be asked."""

    async def verdict(trajectory: Trajectory) -> bool | None:
        result = trajectory.result
        return None if result.answer is None else await judge.judge(result.question, result.answer)

    return list(await asyncio.gather(*map(verdict, played)))


def rollout_seeds(seed: int, step: int, count: int) -> np.ndarray:
    """Of `count` rollouts, over all processes; step 0 is the selection."""
    return np.random.SeedSequence([seed, step]).generate_state(count)
