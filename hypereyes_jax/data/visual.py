"""Drafts of visual questions: which countries to show, what to ask of them, and the plan that answers it.

A draft is built around its answer, so that its condition (exactly one of the shown ...) holds by construction or the
draft is given up. Where a question compares, every flag shown is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from hypereyes_jax.data.question_kinds import (
    AttributeOf,
    BorderOf,
    Extreme,
    OnlyOne,
    SameAs,
    SharedValue,
    matches,
    number,
    value,
)
from hypereyes_jax.data.types import QuestionPlan
from hypereyes_jax.env.world import World

# The largest must beat the second by this factor, else rounding on the cards (and the year of a census) decides.
MARGIN = 1.25
# Share of the needed countries, besides the deciding one, that a focused question takes from its focus.
_FOCUS_SHARE = 0.7


@dataclass(frozen=True)
class Draft:
    """A visual question before it is drawn."""

    kind: str
    attribute: str
    matter: tuple[str, ...]  # keys, in the plan's order
    text: str  # with {0}, {1} ... where the place of that needed entity is to be said
    plan: QuestionPlan
    deciding: str  # key of the country that the answer is, or is a fact of
    answer_is: str  # "name", or the attribute whose value is the answer


@dataclass(frozen=True)
class CountryPool:
    """Where entities come from: any flag of the world, or mostly (and for what decides, always) the focus."""

    world: World
    rng: np.random.Generator
    focus: tuple[str, ...]  # () = no focus

    @classmethod
    def of(cls, world: World, rng: np.random.Generator, focus: Collection[str] | None) -> CountryPool:
        return cls(world, rng, tuple(k for k in world.visual_keys if k in set(focus)) if focus is not None else ())

    def one(self, options: Collection[str], focused: bool = False) -> str | None:
        """A random key of the options; with `focused`, of those in the focus only. None if there is none."""
        keys = [key for key in options if not (focused and self.focus) or key in self.focus]
        return keys[int(self.rng.integers(len(keys)))] if keys else None

    def deciding(self, fits: Callable[[str], bool] = lambda key: True) -> str | None:
        return self.one([key for key in self.focus or self.world.visual_keys if fits(key)])

    def others(self, count: int, used: Collection[str], fits: Callable[[str], bool]) -> list[str] | None:
        """`count` more needed entities; None if the world has too few that fit."""
        keys: list[str] = []
        used_keys = set(used)
        for _ in range(count):
            focused = bool(self.focus) and self.rng.random() < _FOCUS_SHARE
            free = [key for key in self.world.visual_keys if key not in used_keys and fits(key)]
            key = (self.one(free, focused) if focused else None) or self.one(free)
            if key is None:
                return None
            keys.append(key)
            used_keys.add(key)
        return keys

    def phrase(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]


_ATTRIBUTE_TEXTS = {
    "capital": (
        "What is the capital of the country whose flag is {0}?",
        "Name the capital city of the country with the flag {0}.",
        "The flag {0} belongs to a country. Which city is its capital?",
    ),
    "currency": (
        "What currency is used in the country whose flag is {0}?",
        "Which currency does the country with the flag {0} use?",
        "Name the currency of the country whose flag is {0}.",
    ),
    "population": (
        "How many people live in the country whose flag is {0}?",
        "What is the population of the country with the flag {0}?",
    ),
    "area": (
        "How large is the country whose flag is {0}, in square kilometers?",
        "What is the area of the country with the flag {0}?",
    ),
    "region": (
        "In which region of the world is the country whose flag is {0}?",
        "Which world region does the country with the flag {0} belong to?",
    ),
    "language": (
        "What is the official language of the country whose flag is {0}?",
        "Name the official language of the country with the flag {0}.",
    ),
    "independence": (
        "In which year did the country whose flag is {0} become independent?",
        "Since what year has the country with the flag {0} been independent?",
    ),
}


def known(world: World, attribute: str, key: str) -> bool:
    """Whether the fact is there and is one value."""
    country = world.country(key)
    return bool(value(country, attribute)) and (attribute != "language" or len(country.languages) == 1)


def attribute_of(pool: CountryPool, count: int) -> Draft | None:
    attribute = pool.phrase(tuple(_ATTRIBUTE_TEXTS))
    key = pool.deciding(lambda k: known(pool.world, attribute, k))
    if key is None:
        return None
    text = pool.phrase(_ATTRIBUTE_TEXTS[attribute])
    return Draft("attribute", attribute, (key,), text, AttributeOf(attribute), key, attribute)


_MOST = {
    ("population", True): ("has the largest population", "is the most populous"),
    ("population", False): ("has the smallest population", "is the least populous"),
    ("area", True): ("is the largest by area", "covers the largest area"),
    ("area", False): ("is the smallest by area", "covers the smallest area"),
}


def _clear_extreme(pool: CountryPool, count: int) -> tuple[str, bool, list[str], str] | None:
    """(attribute, largest, keys, the winner), with the winner ahead by MARGIN."""
    attribute = pool.phrase(("population", "area"))
    largest = bool(pool.rng.random() < 0.6)
    winner = pool.deciding(lambda k: known(pool.world, attribute, k))
    if winner is None:
        return None
    best = number(pool.world.country(winner), attribute) or 0.0

    def behind(key: str) -> bool:
        size = number(pool.world.country(key), attribute)
        return size is not None and (size * MARGIN <= best if largest else size >= best * MARGIN)

    rest = pool.others(count - 1, (winner,), behind)
    if rest is None:
        return None
    keys = [winner, *rest]
    pool.rng.shuffle(keys)
    return attribute, largest, keys, winner


def extreme_of_all(pool: CountryPool, count: int) -> Draft | None:
    draw = _clear_extreme(pool, count)
    if draw is None:
        return None
    attribute, largest, keys, winner = draw
    most = pool.phrase(_MOST[attribute, largest])
    text = pool.phrase(
        (
            f"Which of the countries whose flags are shown {most}?",
            f"Of all the countries in the picture, which one {most}?",
            f"The picture shows several flags. Which of these countries {most}?",
        )
    )
    return Draft("extreme", attribute, tuple(keys), text, Extreme(attribute, largest), winner, "name")


def extreme_then_fact(pool: CountryPool, count: int) -> Draft | None:
    draw = _clear_extreme(pool, count)
    if draw is None:
        return None
    attribute, largest, keys, winner = draw
    then = pool.phrase(("capital", "currency"))
    if not value(pool.world.country(winner), then):
        return None
    most = pool.phrase(_MOST[attribute, largest])
    text = pool.phrase(
        (
            f"Among the countries whose flags are shown, take the one that {most}. What is its {then}?",
            f"What is the {then} of the country that {most} among those shown?",
        )
    )
    return Draft("extreme_then", attribute, tuple(keys), text, Extreme(attribute, largest, then), winner, then)


def compare_two(pool: CountryPool, count: int) -> Draft | None:
    """Two of the entities shown; the rest is there to be left alone."""
    draw = _clear_extreme(pool, 2)
    if draw is None:
        return None
    attribute, largest, keys, winner = draw
    more = {
        ("population", True): ("has more people", "has the larger population"),
        ("population", False): ("has fewer people", "has the smaller population"),
        ("area", True): ("is larger", "has the larger area"),
        ("area", False): ("is smaller", "has the smaller area"),
    }[attribute, largest]
    text = pool.phrase(
        (
            f"Compare the countries of the flag {{0}} and the flag {{1}}: which {pool.phrase(more)}?",
            f"Which country {pool.phrase(more)}, the one with the flag {{0}} or the one with the flag {{1}}?",
        )
    )
    return Draft("compare", attribute, tuple(keys), text, Extreme(attribute, largest), winner, "name")


_SHARED_NOUN = {"currency": "currency", "language": "official language", "region": "world region"}


def _pair_among(pool: CountryPool, count: int, attribute: str) -> tuple[str, str, list[str]] | None:
    """Two keys with the same value and count - 2 others, all with values that occur once."""
    world = pool.world
    first = pool.deciding(lambda k: known(world, attribute, k))
    if first is None:
        return None
    shared = value(world.country(first), attribute)
    twins = [k for k in world.visual_keys if k != first and known(world, attribute, k)]
    second = pool.one([k for k in twins if value(world.country(k), attribute) == shared])
    if second is None:
        return None
    values, rest = {shared}, list[str]()
    while len(rest) < count - 2:
        more = pool.others(
            1,
            (first, second, *rest),
            lambda k: known(world, attribute, k) and value(world.country(k), attribute) not in values,
        )
        if more is None:
            return None
        rest += more
        values.add(value(world.country(more[0]), attribute))
    return first, second, rest


def shared_value(pool: CountryPool, count: int) -> Draft | None:
    attribute = pool.phrase(tuple(_SHARED_NOUN))
    trio = _pair_among(pool, count, attribute) if count > 2 else None
    if trio is None:
        return None
    first, second, rest = trio
    keys = [first, second, *rest]
    pool.rng.shuffle(keys)
    noun = _SHARED_NOUN[attribute]
    text = pool.phrase(
        (
            f"Exactly two of the countries whose flags are shown have the same {noun}. Which {noun} is it?",
            f"Two of the countries in the picture share their {noun}. What is it?",
        )
    )
    return Draft("shared", attribute, tuple(keys), text, SharedValue(attribute), first, attribute)


def same_as(pool: CountryPool, count: int) -> Draft | None:
    attribute = pool.phrase(tuple(_SHARED_NOUN))
    trio = _pair_among(pool, count, attribute) if count > 2 else None
    if trio is None:
        return None
    answer, anchor, rest = trio
    others = [answer, *rest]
    pool.rng.shuffle(others)
    noun = _SHARED_NOUN[attribute]
    text = pool.phrase(
        (
            f"Which other country in the picture has the same {noun} as the one whose flag is {{0}}?",
            f"One of the other countries shown shares its {noun} with the country of the flag {{0}}. Which one?",
        )
    )
    return Draft("same_as", attribute, (anchor, *others), text, SameAs(attribute), answer, "name")


def only_one(pool: CountryPool, count: int) -> Draft | None:
    world = pool.world
    attribute = pool.phrase(tuple(_SHARED_NOUN))
    answer = pool.deciding(lambda k: bool(value(world.country(k), attribute)))
    if answer is None:
        return None
    country = world.country(answer)
    fact = pool.phrase(country.languages) if attribute == "language" else value(country, attribute)
    if sum(matches(c, attribute, fact) for c in world.countries) < 2:
        return None  # the value alone would name the country, picture or not
    rest = pool.others(
        count - 1,
        (answer,),
        lambda k: bool(value(world.country(k), attribute)) and not matches(world.country(k), attribute, fact),
    )
    if rest is None:
        return None
    keys = [answer, *rest]
    pool.rng.shuffle(keys)
    has = {
        "currency": f"uses the currency {fact}",
        "language": f"has {fact} as an official language",
        "region": f"lies in the region {fact}",
    }[attribute]
    text = pool.phrase(
        (
            f"Which is the only country shown that {has}?",
            f"Only one of the countries whose flags are in the picture {has}. Which one?",
        )
    )
    return Draft("only_one", attribute, tuple(keys), text, OnlyOne(attribute, fact), answer, "name")


def border_of(pool: CountryPool, count: int) -> Draft | None:
    """Asks which one of the others borders the anchor, itself shown or (every second time) named in the question."""
    world = pool.world
    answer = pool.deciding(lambda k: bool(world.country(k).borders))
    if answer is None:
        return None
    is_named = bool(pool.rng.random() < 0.5) or count < 3
    around = [k for k in world.country(answer).borders if is_named or world.country(k).flag]
    anchor = pool.one(around)
    if anchor is None:
        return None
    near = set(world.country(anchor).borders)
    if is_named and len(near) < 2:
        return None  # the anchor alone would name the country
    countries = (answer, anchor)
    rest = pool.others(count - (1 if is_named else 2), countries, lambda k: k not in near)
    if rest is None:
        return None
    others = [answer, *rest]
    pool.rng.shuffle(others)
    if is_named:
        centre = world.country(anchor).name
        text = pool.phrase(
            (
                f"Which of the countries whose flags are shown borders {centre}?",
                f"One of the countries in the picture is a neighbor of {centre}. Which one?",
            )
        )
        return Draft("border_named", "borders", tuple(others), text, BorderOf(anchor), answer, "name")
    text = pool.phrase(
        (
            "Which other country in the picture borders the one whose flag is {0}?",
            "One of the other countries shown is a neighbor of the country with the flag {0}. Which one?",
        )
    )
    return Draft("border", "borders", (anchor, *others), text, BorderOf(), answer, "name")


# kind -> (maker, whether every entity shown matters, fewest entities)
TEMPLATES: dict[str, tuple[Callable[[CountryPool, int], Draft | None], bool, int]] = {
    "attribute": (attribute_of, False, 2),
    "extreme": (extreme_of_all, True, 2),
    "extreme_then": (extreme_then_fact, True, 2),
    "compare": (compare_two, False, 3),
    "shared": (shared_value, True, 3),
    "same_as": (same_as, True, 3),
    "only_one": (only_one, True, 2),
    "border": (border_of, True, 2),
}
