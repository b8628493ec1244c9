"""Drafts of textual questions: short walks on the fact graph whose constraints leave exactly one country."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from hypereyes_jax.data.question_kinds import (
    CommonNeighbour,
    NeighbourExtreme,
    NeighbourWith,
    extreme,
    matches,
    number,
    value,
)
from hypereyes_jax.data.types import QuestionPlan
from hypereyes_jax.data.visual import MARGIN
from hypereyes_jax.env.world import Country, World

# A longer list of neighbours would need more queries than the paper's widest examples.
MAX_NEIGHBOURS = 7


@dataclass(frozen=True)
class TextDraft:
    """A question without a picture, before it is checked."""

    kind: str
    attribute: str
    named: tuple[str, ...]  # keys of the countries that the question names
    text: str
    plan: QuestionPlan
    deciding: str  # key of the country that the answer is, or is a fact of
    answer_is: str  # "name", or the attribute whose value is the answer
    rivals: tuple[str, ...]  # keys that meet some of the constraints


@dataclass(frozen=True)
class Walk:
    """The random choices of one question."""

    world: World
    rng: np.random.Generator
    focus: Collection[str] | None  # what the answer has to be about

    def pick(self, options: Collection[str] | tuple[str, ...]) -> str:
        items = tuple(options)
        return items[int(self.rng.integers(len(items)))]

    def answer(self) -> Country:
        """A country with neighbours, of the focus if there is one."""
        keys = [k for k in self.world.keys if self.focus is None or k in self.focus]
        return self.world.country(self.pick([k for k in keys if self.world.country(k).borders] or keys))

    def hub(self, answer: Country) -> Country | None:
        """A neighbour of the answer with a few other neighbours, from which it must be told apart."""
        hubs = [k for k in answer.borders if 2 <= len(self.world.country(k).borders) <= MAX_NEIGHBOURS]
        return self.world.country(self.pick(hubs)) if hubs else None


def common_neighbour(walk: Walk) -> TextDraft | None:
    world, answer = walk.world, walk.answer()
    near = [k for k in answer.borders if 2 <= len(world.country(k).borders) <= MAX_NEIGHBOURS]
    count = 3 if len(near) > 2 and walk.rng.random() < 0.3 else 2
    if len(near) < count:
        return None
    of = tuple(sorted(str(k) for k in walk.rng.choice(near, count, replace=False)))
    then = walk.pick(("", "", "capital", "currency"))
    plan = CommonNeighbour(of, then)
    if [c.key for c in plan.solutions(world)] != [answer.key] or (then and not value(answer, then)):
        return None
    names = [world.country(key).name for key in of]
    enumeration = " and ".join(names) if count == 2 else f"{names[0]}, {names[1]} and {names[2]}"
    both = "both " if count == 2 else ""
    if then:
        text = walk.pick(
            (
                f"What is the {then} of the country that borders {both}{enumeration}?",
                f"One country is a neighbor of {both}{enumeration}. What is its {then}?",
            )
        )
    else:
        text = walk.pick(
            (
                f"Which country borders {both}{enumeration}?",
                f"Name the country that shares a land border with {both}{enumeration}.",
                f"{enumeration} have one neighbor in common. Which country is it?",
            )
        )
    rivals = tuple(sorted({k for key in of for k in world.country(key).borders} - {answer.key, *of}))
    return TextDraft("common_neighbour", "borders", of, text, plan, answer.key, then or "name", rivals)


def neighbour_with(walk: Walk) -> TextDraft | None:
    world, answer = walk.world, walk.answer()
    hub = walk.hub(answer)
    if hub is None:
        return None
    options = [a for a in ("currency", "language", "region") if value(answer, a)]
    count = 2 if len(options) > 1 and walk.rng.random() < 0.3 else 1
    if not options:
        return None
    facts = []
    for attribute in walk.rng.choice(options, count, replace=False).tolist():
        fact = walk.pick(answer.languages) if attribute == "language" else value(answer, attribute)
        facts.append((str(attribute), fact))
    plan = NeighbourWith(hub.key, tuple(facts))
    if [c.key for c in plan.solutions(world)] != [answer.key]:
        return None
    if any(sum(matches(c, a, v) for c in world.countries) < 2 for a, v in facts):
        return None  # the value alone would name the country
    if count == 2 and any(sum(matches(world.country(k), a, v) for k in hub.borders) == 1 for a, v in facts):
        return None  # one of the two values would do without the other
    says = {
        "currency": "uses the currency {}",
        "language": "has {} as an official language",
        "region": "lies in the region {}",
    }
    condition = " and ".join(says[a].format(v) for a, v in facts)
    text = walk.pick(
        (
            f"Which neighbor of {hub.name} {condition}?",
            f"Which country borders {hub.name} and {condition}?",
            f"Among the countries that border {hub.name}, which one {condition}?",
        )
    )
    rivals = tuple(key for key in hub.borders if key != answer.key)
    return TextDraft("neighbour_with", facts[0][0], (hub.key,), text, plan, answer.key, "name", rivals)


def neighbour_extreme(walk: Walk) -> TextDraft | None:
    world, answer = walk.world, walk.answer()
    hub = walk.hub(answer)
    if hub is None:
        return None
    attribute, largest = walk.pick(("population", "area")), bool(walk.rng.random() < 0.5)
    neighbours = [world.country(key) for key in hub.borders]
    best = extreme(neighbours, attribute, largest)
    sizes = [number(c, attribute) for c in neighbours if c.key != answer.key]
    mine = number(answer, attribute)
    if best is not answer or mine is None or any(size is None for size in sizes):
        return None
    if any(size * MARGIN > mine if largest else size < mine * MARGIN for size in sizes if size is not None):
        return None
    most = {
        ("population", True): ("the largest population", "the most people"),
        ("population", False): ("the smallest population", "the fewest people"),
        ("area", True): ("the largest area", "the most land"),
        ("area", False): ("the smallest area", "the least land"),
    }[attribute, largest]
    text = walk.pick(
        (
            f"Which neighbor of {hub.name} has {walk.pick(most)}?",
            f"Of the countries that border {hub.name}, which has {walk.pick(most)}?",
        )
    )
    rivals = tuple(key for key in hub.borders if key != answer.key)
    plan = NeighbourExtreme(hub.key, attribute, largest)
    return TextDraft("neighbour_extreme", attribute, (hub.key,), text, plan, answer.key, "name", rivals)


TEMPLATES: dict[str, Callable[[Walk], TextDraft | None]] = {
    "common_neighbour": common_neighbour,
    "neighbour_with": neighbour_with,
    "neighbour_extreme": neighbour_extreme,
}
