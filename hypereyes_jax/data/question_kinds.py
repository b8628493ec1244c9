"""The plans: one class a kind of question. Each says which queries to ask and how the answer follows from the cards.

A plan works on names as found, right or wrong, so that a searcher that was misled answers what its sources say.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from hypereyes_jax.data.types import Names
from hypereyes_jax.env.world import Country, World

# How a text query asks for each attribute. Two attributes of one country can be asked for in one query.
FACTS_IN_WORDS = {
    "capital": "capital",
    "region": "region",
    "population": "population",
    "area": "area",
    "currency": "currency",
    "language": "official language",
    "borders": "borders",
    "independence": "independence",
}


def query(name: str, *attributes: str) -> str:
    """ "population and capital of Chad" """
    return f"{' and '.join(FACTS_IN_WORDS[attribute] for attribute in attributes)} of {name}"


def value(country: Country, attribute: str) -> str:
    """The fact as an answer: like the card's, but of independence only the year. "" if unknown."""
    if attribute == "independence":
        return str(country.independence_year or "")
    return country.facts.get(attribute, "")


def number(country: Country, attribute: str) -> float | None:
    """Population or area as rounded on the card, so that comparing needs no more than was read."""
    text = country.facts.get(attribute, "")
    if not text:
        return None
    digits = text.split()[0].replace(",", "")
    return float(digits) * {"million": 1e6, "billion": 1e9}.get([*text.split(), ""][1], 1.0)


def matches(country: Country, attribute: str, expected: str) -> bool:
    """Whether the country has this value; of several official languages one is enough."""
    return expected in country.languages if attribute == "language" else value(country, attribute) == expected


def extreme(countries: Iterable[Country], attribute: str, largest: bool) -> Country | None:
    """The country with the largest or smallest number; None if none has one. Of equal ones the first."""
    pairs = [(size, country) for country in countries if (size := number(country, attribute)) is not None]
    if not pairs:
        return None
    return (max if largest else min)(pairs, key=lambda pair: pair[0])[1]


def countries_named(world: World, names: Names) -> list[Country]:
    """The countries behind the names, without those that were not identified or don't exist."""
    pages = (world.find(name) for name in names if name is not None)
    return [page for page in pages if page is not None]


def neighbours(world: World, country: Country) -> list[Country]:
    """The countries that share a land border with this one, by name, as the card lists them."""
    return sorted((world.country(key) for key in country.borders), key=lambda c: c.name)


def facts_round(world: World, names: Names, *attributes: str) -> tuple[tuple[str, ...], ...]:
    """One round that asks for these facts of every entity at once."""
    return (tuple(query(c.name, *attributes) for c in countries_named(world, names)),)


# Written behind what decides. Comparing as one reads is learnt from every line, comparing at the end from one word.
FITS = " fits"
# Of sizes, against the best so far; behind it still stands whether that fits. A mark that means "more" in one question
# and "less" in the next tells a model nothing about sizes until it tells those questions apart: with it alone,
# comparing stayed at chance.
MORE, LESS = " more", " less"


def _fits(condition: bool) -> str:
    return FITS if condition else ""


def fact_line(country: Country, *attributes: str, mark: str = "") -> str:
    """A country's name and facts as a line of reasoning, with a mark behind them."""
    facts = ", ".join(country.facts.get(attribute, "unknown") for attribute in attributes)
    return f"{country.name}: {facts}{mark}"


def _compared(pages: Iterable[Country], attribute: str, largest: bool) -> tuple[str, ...]:
    """Each against the best before it, and whether it takes its place; so the last that fits is the extreme."""
    best: float | None = None
    lines = []
    for country in pages:
        size = number(country, attribute)
        mark = "" if size is None or best in (None, size) else MORE if size > best else LESS
        if size is not None and (best is None or (size > best if largest else size < best)):
            best, mark = size, mark + FITS
        lines.append(fact_line(country, attribute, mark=mark))
    return tuple(lines)


def _bordering(world: World, centre: Country, fitting: Container[str]) -> str:
    """The neighbours in the card's order; those whose key is wanted fit."""
    names = ", ".join(f"{c.name}{_fits(c.key in fitting)}" for c in neighbours(world, centre))
    return f"{centre.name}: {names or 'none'}"


@dataclass(frozen=True)
class AttributeOf:
    """The capital (population, ...) of the one entity that matters."""

    attribute: str

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        return facts_round(world, names, self.attribute)

    def answer(self, world: World, names: Names) -> str | None:
        pages = countries_named(world, names)
        return (value(pages[0], self.attribute) or None) if pages else None

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        return tuple(fact_line(c, self.attribute) for c in countries_named(world, names)[:1])


@dataclass(frozen=True)
class Extreme:
    """The entity with the most (least) population or area; with `then`, a fact of that entity."""

    attribute: str
    largest: bool
    then: str = ""

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        return facts_round(world, names, *filter(None, (self.attribute, self.then)))

    def answer(self, world: World, names: Names) -> str | None:
        winner = extreme(countries_named(world, names), self.attribute, self.largest)
        if winner is None:
            return None
        return (value(winner, self.then) or None) if self.then else winner.name

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        pages = countries_named(world, names)
        winner = extreme(pages, self.attribute, self.largest)
        tail = (fact_line(winner, self.then),) if self.then and winner else ()
        return _compared(pages, self.attribute, self.largest) + tail


@dataclass(frozen=True)
class SharedValue:
    """The one currency (language, region) that two of the entities have in common."""

    attribute: str

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        return facts_round(world, names, self.attribute)

    def answer(self, world: World, names: Names) -> str | None:
        values = [value(c, self.attribute) for c in countries_named(world, names)]
        shared = [v for v in dict.fromkeys(values) if v and values.count(v) > 1]
        return shared[0] if shared else None

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        facts: set[str] = set()
        lines = []
        for country in countries_named(world, names):
            fact = value(country, self.attribute)
            lines.append(fact_line(country, self.attribute, mark=_fits(fact in facts)))
            facts |= {fact} - {""}
        return tuple(lines)


@dataclass(frozen=True)
class SameAs:
    """Asks which of the others has the same currency (language, region) as the first entity that matters."""

    attribute: str

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        return facts_round(world, names, self.attribute)

    def answer(self, world: World, names: Names) -> str | None:
        if not names or names[0] is None or (first := world.find(names[0])) is None:
            return None
        expected = value(first, self.attribute)
        same = [c for c in countries_named(world, names[1:]) if expected and value(c, self.attribute) == expected]
        return same[0].name if same else None

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        first = world.find(names[0]) if names and names[0] is not None else None
        expected = value(first, self.attribute) if first else ""
        lines = [fact_line(first, self.attribute)] if first else []
        for country in countries_named(world, names[1:]):
            same = expected != "" and value(country, self.attribute) == expected
            lines.append(fact_line(country, self.attribute, mark=_fits(same)))
        return tuple(lines)


@dataclass(frozen=True)
class OnlyOne:
    """The only entity that has the value."""

    attribute: str
    wanted: str

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        return facts_round(world, names, self.attribute)

    def answer(self, world: World, names: Names) -> str | None:
        fitting = [c for c in countries_named(world, names) if matches(c, self.attribute, self.wanted)]
        return fitting[0].name if fitting else None

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        return tuple(
            fact_line(c, self.attribute, mark=_fits(matches(c, self.attribute, self.wanted)))
            for c in countries_named(world, names)
        )


@dataclass(frozen=True)
class BorderOf:
    """Asks which of the other entities borders the first that matters, or, with `of`, a country the question names."""

    of: str = ""  # key

    def _centre(self, world: World, names: Names) -> Country | None:
        if self.of:
            return world.country(self.of)
        return world.find(names[0]) if names and names[0] is not None else None

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        centre = self._centre(world, names)
        return ((query(centre.name, "borders"),),) if centre else ()

    def answer(self, world: World, names: Names) -> str | None:
        centre = self._centre(world, names)
        others = countries_named(world, names if self.of else names[1:])
        touching = [c for c in others if centre is not None and c.key in centre.borders]
        return touching[0].name if touching else None

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        centre = self._centre(world, names)
        others = {c.key for c in countries_named(world, names if self.of else names[1:])}
        return (_bordering(world, centre, others),) if centre else ()


@dataclass(frozen=True)
class CommonNeighbour:
    """The country that borders all of `of` (keys, named by the question); with `then`, a fact of that country."""

    of: tuple[str, ...]
    then: str = ""

    def solutions(self, world: World) -> list[Country]:
        common = set.intersection(*(set(world.country(key).borders) for key in self.of)) - set(self.of)
        return [world.country(key) for key in sorted(common)]

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        first = tuple(query(world.country(key).name, "borders") for key in self.of)
        solutions = self.solutions(world)
        return (first, (query(solutions[0].name, self.then),)) if self.then and solutions else (first,)

    def answer(self, world: World, names: Names) -> str | None:
        solutions = self.solutions(world)
        if not solutions:
            return None
        return (value(solutions[0], self.then) or None) if self.then else solutions[0].name

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        centres = [world.country(key) for key in self.of]
        common: set[str] = set()  # to all that have been read; nothing fits in the first list
        lines = []
        for place, centre in enumerate(centres):
            lines.append(_bordering(world, centre, common - set(self.of)))
            common = common & set(centre.borders) if place else set(centre.borders)
        return (*lines, *(fact_line(c, self.then) for c in self.solutions(world)[:1] if self.then))


@dataclass(frozen=True)
class NeighbourWith:
    """The neighbour of `of` that has all the values, given as (attribute, value)."""

    of: str  # key, named by the question
    wanted: tuple[tuple[str, str], ...]

    def solutions(self, world: World) -> list[Country]:
        return [c for c in neighbours(world, world.country(self.of)) if all(matches(c, a, v) for a, v in self.wanted)]

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        attributes = [attribute for attribute, _ in self.wanted]
        return (
            (query(world.country(self.of).name, "borders"),),
            tuple(query(c.name, *attributes) for c in neighbours(world, world.country(self.of))),
        )

    def answer(self, world: World, names: Names) -> str | None:
        solutions = self.solutions(world)
        return solutions[0].name if solutions else None

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        attributes = [attribute for attribute, _ in self.wanted]
        fitting = self.solutions(world)
        return tuple(
            fact_line(c, *attributes, mark=_fits(c in fitting)) for c in neighbours(world, world.country(self.of))
        )


@dataclass(frozen=True)
class NeighbourExtreme:
    """The neighbour of `of` with the most (least) population or area."""

    of: str  # key, named by the question
    attribute: str
    largest: bool

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        return (
            (query(world.country(self.of).name, "borders"),),
            tuple(query(c.name, self.attribute) for c in neighbours(world, world.country(self.of))),
        )

    def answer(self, world: World, names: Names) -> str | None:
        winner = extreme(neighbours(world, world.country(self.of)), self.attribute, self.largest)
        return winner.name if winner else None

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        return _compared(neighbours(world, world.country(self.of)), self.attribute, self.largest)
