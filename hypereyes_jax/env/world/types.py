"""The nouns of the miniature world: a country and its facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The facts a country can be asked for, in the order they stand on its card.
ATTRIBUTES = ("capital", "region", "population", "area", "currency", "language", "borders", "independence")


@dataclass(frozen=True)
class Country:
    """One country. Everything textual is plain ASCII; accented spellings are among the aliases."""

    key: str  # ISO 3166-1 alpha-2, lower case; stays the same when a varied world renames the country
    name: str
    aliases: tuple[str, ...]
    capital: str
    capital_aliases: tuple[str, ...]
    region: str
    population: int | None  # people
    area: float | None  # square kilometres
    currency: str  # "" where the Factbook names none
    languages: tuple[str, ...]  # official ones
    borders: tuple[str, ...]  # keys, of countries of the same world only
    independence_year: int | None
    independence_from: str  # "" where there is none, or it isn't a single state
    facts: Mapping[str, str] = field(default_factory=dict)  # attribute -> its text on the card; absent if unknown
    sources: Mapping[str, str] = field(default_factory=dict)  # attribute -> the Factbook's own words
    flag: bool = True  # whether the world has a picture of its flag

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


@dataclass(frozen=True)
class Passage:
    """About 150 words of one section of a country's Factbook page."""

    key: str
    section: str
    text: str
