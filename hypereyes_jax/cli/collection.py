"""What `hypereyes collect` and `hypereyes curate` do alike: make the attempts, say what they cost and what fell out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.judging.config import JUDGE_ACCESS, JudgeConfig
from hypereyes_jax.env.search.config import SEARCH_ACCESS, SearchConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.own_objects import keep_own_objects
from hypereyes_jax.runs.run_directory import CONFIG, RunDirectory

if TYPE_CHECKING:
    from hypereyes_jax.data.collection.attempts import AttemptLog
    from hypereyes_jax.data.collection.pipeline import Collection
    from hypereyes_jax.data.collection.types import Spent
    from hypereyes_jax.env.search.services import Connected
    from hypereyes_jax.env.types import Question


# What attempts may go on with another value of: where services are, which further questions and tries there are, costs.
SERVICES_MAY_DIFFER = frozenset(
    [*(f"search.{name}" for name in SEARCH_ACCESS), *(f"judge.{name}" for name in JUDGE_ACCESS)]
)
STAGES_MAY_DIFFER = frozenset("necessity difficulty selection in_flight most_dollars failures".split())
COLLECTED = ("demonstrations.jsonl", "rl_questions.jsonl", "funnel.json")  # what is made of the attempts


def own_objects(
    rules: EpisodeConfig, search: SearchConfig, judge: JudgeConfig, sources: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Records of the user's own tools, prompt, search, judge and questions, for `open_attempts`."""
    from hypereyes_jax.configs.training import LearnerConfig
    from hypereyes_jax.train.method import RlMethod, own_records

    return own_records(RlMethod(), LearnerConfig(), rules, search, judge, (), sources)


@contextlib.contextmanager
def open_attempts(
    folder: Path,
    command: str,
    settings: Any,
    may_differ: frozenset[str],
    inputs: Mapping[str, Path | None],
    objects: Sequence[dict[str, Any]],
) -> Iterator[AttemptLog]:
    """The attempts of a folder, to be gone on with by the models and services that made them.

    Args:
      settings, may_differ, inputs: as of `RunDirectory.open`.
      objects: as of `keep_own_objects`.

    Raises:
      UserError: other models, services or rules made the attempts, another process makes some, or nothing says who
        made them.
    """
    from hypereyes_jax.data.collection.attempts import ATTEMPTS, AttemptLog

    attempts = folder / ATTEMPTS
    if attempts.exists() and not (folder / CONFIG).exists():
        raise UserError(
            f"{attempts} holds attempts, but no {CONFIG} beside it says who made them. Choose another directory."
        )
    with (
        RunDirectory.open(
            folder, command, settings, may_differ=may_differ, inputs=inputs, writes=COLLECTED
        ) as directory,
        AttemptLog(folder, directory.run) as log,
    ):
        keep_own_objects(folder, objects)
        yield log


def price_of(prompt_price: float, completion_price: float) -> Callable[[Spent], float]:
    """The cost of tokens, at dollars a million."""
    return lambda spent: (spent.read * prompt_price + spent.written * completion_price) / 1e6


def dollars_of(search: Connected, prompt_price: float, completion_price: float) -> Callable[[Spent], float]:
    """The cost of tokens, at dollars a million, with that of the searches so far."""
    tokens = price_of(prompt_price, completion_price)
    return lambda spent: tokens(spent) + search.metrics.summary()["cost"]


async def make_attempts(collection: Collection, questions: Sequence[Question]) -> bool:
    """Makes the attempts that are missing, with their progress shown; True if the limit of spending ended it."""
    from hypereyes_jax.runs.progress import Stages

    with Stages() as stages, stages.stage("questions", len(questions)) as stage:
        return await collection.run(questions, stage.advance)


def print_spending(collection: Collection, capped: bool, limit: str) -> None:
    """Prints what was spent, and what the same command would still do.

    Args:
      capped: what `make_attempts` returned.
      limit: the limit of spending as the user sets it, like "most_dollars: 5".
    """
    print(f"${collection.dollars:.2f} spent, {collection.undecided} attempts could not be made")
    if collection.uncounted and collection.has_token_price:
        print(
            f"in {collection.uncounted} attempts the model told no number of tokens (usage): they count as free, and "
            "no limit of spending holds for them"
        )
    if capped:
        print(f"stopped at {limit}; raise it to continue")
    elif collection.undecided:
        print("the same command makes those attempts again")


def print_stages(stages: Iterable[tuple[str, int, int, Mapping[str, int]]]) -> None:
    """Prints a table of stages: the name, questions in, questions out, and how many fell out for which reason."""
    from rich.table import Table

    from hypereyes_jax.runs.terminal import Terminal

    table = Table("stage", "in", "out", "fell out")
    for name, entered, left, dropped in stages:
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
        table.add_row(name, str(entered), str(left), why)
    Terminal().print(table)
