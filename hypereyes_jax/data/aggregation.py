"""Visual questions that need every picture: whoever leaves one out can't arrive at the answer.

A question for the largest of the entities shown can be answered without the pictures of the others, by luck; a ranking,
a total, a list or a median can't. These kinds pass the drop-one check of `necessity.py` by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypereyes_jax.data.question_kinds import countries_named, fact_line, facts_round, number, value
from hypereyes_jax.data.types import Names
from hypereyes_jax.data.visual import MARGIN, CountryPool, Draft, known
from hypereyes_jax.env.world import Country, World

FROM_PLAN = "plan"  # Draft.answer_is: the answer is what the plan says of the entities as they are shown


def size(country: Country, attribute: str) -> float | None:
    """A number to order by: population or area as on the card, or the year of independence."""
    return country.independence_year if attribute == "independence" else number(country, attribute)


@dataclass(frozen=True)
class _OneFactEach:
    """What the plans here share: one fact of every entity is looked up, in one round."""

    attribute: str

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        return facts_round(world, names, self.attribute)

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        return tuple(fact_line(c, self.attribute) for c in countries_named(world, names))


@dataclass(frozen=True)
class Ranking(_OneFactEach):
    """The names of all entities, ordered by a fact."""

    largest_first: bool

    def answer(self, world: World, names: Names) -> str | None:
        pairs = [(amount, c) for c in countries_named(world, names) if (amount := size(c, self.attribute)) is not None]
        by_size = sorted(pairs, key=lambda pair: pair[0], reverse=self.largest_first)
        return ", ".join(c.name for _, c in by_size) or None


@dataclass(frozen=True)
class Total(_OneFactEach):
    """The sum of a fact over all entities, as the cards round it."""

    def answer(self, world: World, names: Names) -> str | None:
        amounts = [amount for c in countries_named(world, names) if (amount := number(c, self.attribute)) is not None]
        return in_words(sum(amounts), self.attribute) if amounts else None


@dataclass(frozen=True)
class EachInTurn(_OneFactEach):
    """A fact of every entity, in reading order."""

    def answer(self, world: World, names: Names) -> str | None:
        return ", ".join(value(c, self.attribute) or "unknown" for c in countries_named(world, names)) or None


@dataclass(frozen=True)
class Median(_OneFactEach):
    """The entity in the middle of an odd number of them, ordered by a fact; None for an even number."""

    def answer(self, world: World, names: Names) -> str | None:
        pairs = [(amount, c) for c in countries_named(world, names) if (amount := size(c, self.attribute)) is not None]
        if len(pairs) % 2 == 0:
            return None
        return sorted(pairs, key=lambda pair: pair[0])[len(pairs) // 2][1].name


def in_words(amount: float, attribute: str) -> str:
    """A sum of numbers from cards, with all their digits: 19,750,000 people -> "19.75 million"."""
    unit = " sq km" if attribute == "area" else ""
    for scale, word in ((1e9, " billion"), (1e6, " million")):
        if attribute == "population" and amount >= scale:
            return f"{amount / scale:.9f}".rstrip("0").rstrip(".") + word
    return f"{amount:,.2f}".rstrip("0").rstrip(".") + unit


def _apart(pool: CountryPool, count: int, attribute: str) -> list[str] | None:
    """Keys whose facts can be put in order without doubt: by the margin, or by years that differ."""
    world = pool.world
    first = pool.deciding(lambda key: known(world, attribute, key))
    if first is None:
        return None
    keys = [first]

    def clear(key: str) -> bool:
        mine = size(world.country(key), attribute)
        if mine is None:
            return False
        for other in keys:
            its = size(world.country(other), attribute) or 0.0
            if mine == its or (attribute != "independence" and max(mine, its) < MARGIN * min(mine, its)):
                return False
        return True

    while len(keys) < count:
        more = pool.others(1, keys, clear)
        if more is None:
            return None
        keys += more
    pool.rng.shuffle(keys)
    return keys


_ORDERS = {
    ("population", True): "from the most to the least populous",
    ("population", False): "from the least to the most populous",
    ("area", True): "from the largest to the smallest by area",
    ("area", False): "from the smallest to the largest by area",
    ("independence", False): "in the order in which they became independent, the earliest first",
    ("independence", True): "by the year of independence, the latest first",
}


def ranking(pool: CountryPool, count: int) -> Draft | None:
    attribute = pool.phrase(("population", "area", "independence"))
    largest_first = bool(pool.rng.random() < 0.5)
    keys = _apart(pool, count, attribute)
    if keys is None:
        return None
    order = _ORDERS[attribute, largest_first]
    text = pool.phrase(
        (
            f"List all countries whose flags are shown {order}.",
            f"Name every country in the picture, {order}.",
        )
    )
    return Draft("ranking", attribute, tuple(keys), text, Ranking(attribute, largest_first), keys[0], FROM_PLAN)


def total(pool: CountryPool, count: int) -> Draft | None:
    attribute = pool.phrase(("population", "area"))
    first = pool.deciding(lambda key: known(pool.world, attribute, key))
    if first is None:
        return None
    # A country that vanishes in the rounding of the others would not be needed.
    least = (number(pool.world.country(first), attribute) or 0.0) / 20

    def counts(key: str) -> bool:
        amount = number(pool.world.country(key), attribute)
        return amount is not None and least <= amount <= 400 * least

    rest = pool.others(count - 1, (first,), counts)
    if rest is None:
        return None
    keys = [first, *rest]
    pool.rng.shuffle(keys)
    text = pool.phrase(
        {
            "population": (
                "How many people live in the countries whose flags are shown, all taken together?",
                "What is the combined population of all countries in the picture?",
            ),
            "area": (
                "How large are the countries whose flags are shown, all taken together, in square kilometers?",
                "What is the combined area of all countries in the picture, in square kilometers?",
            ),
        }[attribute]
    )
    return Draft("total", attribute, tuple(keys), text, Total(attribute), keys[0], FROM_PLAN)


_EACH = {"capital": "capital", "currency": "currency", "region": "world region"}


def each_in_turn(pool: CountryPool, count: int) -> Draft | None:
    attribute = pool.phrase(tuple(_EACH))
    first = pool.deciding(lambda key: known(pool.world, attribute, key))
    rest = first and pool.others(count - 1, (first,), lambda key: known(pool.world, attribute, key))
    if not first or rest is None:
        return None
    keys = [first, *rest]
    pool.rng.shuffle(keys)
    noun = _EACH[attribute]
    text = pool.phrase(
        (
            f"Going from left to right and row by row, name the {noun} of each country whose flag is shown.",
            f"What is the {noun} of each country in the picture, in reading order?",
        )
    )
    return Draft("each_in_turn", attribute, tuple(keys), text, EachInTurn(attribute), keys[0], FROM_PLAN)


def median(pool: CountryPool, count: int) -> Draft | None:
    attribute = pool.phrase(("population", "area", "independence"))
    keys = _apart(pool, count, attribute) if count % 2 else None
    if keys is None:
        return None
    what = {
        "population": "by population",
        "area": "by area",
        "independence": "by the year of independence",
    }[attribute]
    text = pool.phrase(
        (
            f"Order the countries whose flags are shown {what}. Which one stands in the middle?",
            f"Of the {count} countries in the picture, which is the middle one {what}?",
        )
    )
    return Draft("median", attribute, tuple(keys), text, Median(attribute), keys[0], FROM_PLAN)


# kind -> (maker, whether every entity shown matters, fewest entities), as in visual.TEMPLATES
TEMPLATES: dict[str, tuple[Callable[[CountryPool, int], Draft | None], bool, int]] = {
    "ranking": (ranking, True, 2),
    "total": (total, True, 2),
    "each_in_turn": (each_in_turn, True, 2),
    "median": (median, True, 3),
}
