"""How questions over photos are answered from a knowledge base: one class a kind of question.

As in `question_kinds.py`, a plan also works when something is not known (None), so that the drop-one check can leave
an entity out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hypereyes_jax.data.knowledge import KnowledgeEntry
from hypereyes_jax.env.judging.judges import normalise

Known = Sequence[KnowledgeEntry | None]  # in reading order; None = not identified


class FactPlan(Protocol):
    """How a question over photos is answered from the facts of its entities."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that have to be looked up, of every entity."""
        ...

    def answer(self, known: Known) -> str | None:
        """The answer from what is known; None if that gives none."""
        ...


def _numbers(known: Known, field: str) -> list[tuple[float, KnowledgeEntry]]:
    pairs = ((entry.fact(field), entry) for entry in known if entry is not None)
    return [(fact.number, entry) for fact, entry in pairs if fact is not None and fact.number is not None]


def _value(entry: KnowledgeEntry | None, field: str) -> str:
    fact = entry.fact(field) if entry is not None else None
    return fact.value if fact is not None else ""


@dataclass(frozen=True)
class Ranking:
    """All labels ordered by a number."""

    field: str
    largest_first: bool

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def answer(self, known: Known) -> str | None:
        ranking = sorted(_numbers(known, self.field), key=lambda pair: pair[0], reverse=self.largest_first)
        return ", ".join(entry.label for _, entry in ranking) or None


@dataclass(frozen=True)
class Total:
    """The sum of a number over all."""

    field: str

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def answer(self, known: Known) -> str | None:
        numbers = [number for number, _ in _numbers(known, self.field)]
        return f"{sum(numbers):.10g}" if numbers else None


@dataclass(frozen=True)
class EachInTurn:
    """A fact of every one, in reading order."""

    field: str

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def answer(self, known: Known) -> str | None:
        values = [_value(entry, self.field) for entry in known if entry is not None]
        return "; ".join(values) if values and all(values) else None


@dataclass(frozen=True)
class Extreme:
    """The label with the largest (smallest) number; with `then`, another fact of it: a second hop."""

    field: str
    largest: bool
    then: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field, self.then) if self.then else (self.field,)

    def answer(self, known: Known) -> str | None:
        numbers = _numbers(known, self.field)
        if not numbers:
            return None
        entry = (max if self.largest else min)(numbers, key=lambda pair: pair[0])[1]
        return (_value(entry, self.then) or None) if self.then else entry.label


@dataclass(frozen=True)
class Shared:
    """The value that exactly two have in common."""

    field: str

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def answer(self, known: Known) -> str | None:
        values = {normalise(text): text for entry in known if (text := _value(entry, self.field))}
        counts = Counter(normalise(text) for entry in known if (text := _value(entry, self.field)))
        common = [values[key] for key, count in counts.items() if count == 2]
        return common[0] if len(common) == 1 else None


@dataclass(frozen=True)
class OnlyOne:
    """The only label with a value."""

    field: str
    wanted: str

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def answer(self, known: Known) -> str | None:
        fitting = [e for e in known if e is not None and normalise(_value(e, self.field)) == normalise(self.wanted)]
        return fitting[0].label if len(fitting) == 1 else None


def superfluous(plan: FactPlan, known: Sequence[KnowledgeEntry], answer: str) -> tuple[int, ...]:
    """Places of the entities without which the plan still arrives at the answer: the drop-one check."""
    return tuple(
        place
        for place in range(len(known))
        if plan.answer([None if other == place else entry for other, entry in enumerate(known)]) == answer
    )
