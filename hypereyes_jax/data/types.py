"""The nouns of question synthesis: a question together with what it takes to answer it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hypereyes_jax.env.types import Box, Question
from hypereyes_jax.env.world import World

CONCLUSION = " So the answer is"  # of a searcher's reasoning, before the answer
Names = Sequence[str | None]  # what each needed entity was taken for; None = not identified


class QuestionPlan(Protocol):
    """How one kind of question is answered once its entities have names.

    `names` are those of the entities that matter, in the oracle's order; for a question that names its entities itself
    they are ignored. All three work on wrong names as well: they then say what a reader of those pages would conclude.
    """

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        """Text queries, a tuple a round; the queries of a round can be asked at once."""
        ...

    def answer(self, world: World, names: Names) -> str | None:
        """The answer as the cards spell it; None if what was found doesn't give one."""
        ...

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        """What the answer follows from, a line a page: its name, its facts, and whether it fits what was asked."""
        ...


@dataclass(frozen=True)
class Oracle:
    """All that a scripted searcher needs to know; never shown to a model."""

    world: World = field(repr=False, compare=False)
    boxes: tuple[
        Box, ...
    ]  # of every entity shown, in reading order, fractions of width and height; () if none is shown
    entities: tuple[str, ...]  # keys of the entities shown, or named by the question
    matter: tuple[int, ...]  # which of them the answer depends on
    attribute: str  # the fact that is asked for or compared
    plan: QuestionPlan
    distractors: tuple[str, ...]  # wrong answers of the same type

    @property
    def true_names(self) -> tuple[str, ...]:
        """Names of the entities that matter."""
        return tuple(self.world.country(self.entities[i]).name for i in self.matter)

    def rounds_from(self, names: Names) -> tuple[tuple[str, ...], ...]:
        return self.plan.rounds(self.world, names)

    def answer_from(self, names: Names) -> str | None:
        return self.plan.answer(self.world, names)

    def reasoning_from(self, names: Names) -> str:
        """How the answer follows, in a sentence or two; "" if nothing was found."""
        facts = self.plan.read(self.world, names)
        answer = self.plan.answer(self.world, names)
        if not facts or answer is None:
            return ""
        return f"I read {'; '.join(facts)}.{CONCLUSION} {answer}."


@dataclass(frozen=True)
class SynthQuestion:
    """A question with all that its maker knows of it."""

    question: Question
    oracle: Oracle
