"""What `hypereyes collect` and `hypereyes curate` do alike: make the attempts, say what they cost and what fell out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypereyes_jax.data.collection.pipeline import Collection
    from hypereyes_jax.data.collection.types import Spent
    from hypereyes_jax.env.search.services import Connected
    from hypereyes_jax.env.types import Question


def dollars_of(search: Connected, prompt_price: float, completion_price: float) -> Callable[[Spent], float]:
    """The cost of tokens, at dollars a million, with that of the searches so far."""

    def dollars(spent: Spent) -> float:
        tokens = (spent.read * prompt_price + spent.written * completion_price) / 1e6
        return tokens + search.metrics.summary()["cost"]

    return dollars


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
    if capped:
        print(f"stopped at {limit}; raise it to go on")
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
