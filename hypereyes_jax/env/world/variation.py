"""Worlds with the same shape as the real one but other facts, so that a model learns to read instead of to remember.

With fixed names a small model memorises which flag belongs to which name and never learns to use what a search
returned; with names and facts drawn anew it must copy from the results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from hypereyes_jax.env.world.cards import display_facts
from hypereyes_jax.env.world.types import Country

_ONSETS = tuple(re.findall(r"\w+", "b br ch d dr f g gr h j k kh kl l m n nd p r s sh st t tr v w y z"))
_VOWELS = (*"aaaeeiioou", "ai", "ia", "ou", "ue")
_CODAS = ["", "", "", "", "n", "r", "l", "s", "m", "t", "d", "ng", "k", "x"]
_COINS = ("dollar", "franc", "pound", "peso", "dinar", "rupee", "krone", "crown", "shilling", "mark")
_NAME_FORMS = ("{}", "{}", "{}", "{}", "{}", "{}", "North {}", "South {}", "{} Islands", "Republic of {}", "Saint {}")


class _Inventor:
    """Draws pronounceable words that it has not drawn before and that are no name of the real world."""

    def __init__(self, rng: np.random.Generator, taken: Iterable[str]):
        self._rng = rng
        self._taken = {name.lower() for name in taken}
        self._numbers: list[int] = []

    def _pick(self, options: Sequence[str]) -> str:
        if not self._numbers:  # numpy draws one number as slowly as a thousand
            self._numbers = self._rng.integers(0, 2**31, 1024).tolist()
        return options[self._numbers.pop() % len(options)]

    def word(self) -> str:
        while True:
            syllables = 3 if self._pick("abc") == "a" else 2
            drawn = "".join(self._pick(_ONSETS) + self._pick(_VOWELS) for _ in range(syllables)) + self._pick(_CODAS)
            if drawn not in self._taken:
                self._taken.add(drawn)
                return drawn.capitalize()

    def country(self) -> str:
        return self._pick(_NAME_FORMS).format(self.word())

    def currency(self) -> str:
        return f"{self.word()} {self._pick(_COINS)}" if self._pick("ab") == "a" else self.word().lower()


def vary(
    countries: Sequence[Country], rng: np.random.Generator, keep_names: bool, real_names: Iterable[str]
) -> tuple[Country, ...]:
    """Countries with the same keys (and so the same flags) and other facts, consistent among themselves.

    Borders, currency and languages move together to another country, as do, each for itself, region, population, area
    and independence; numbers are then scaled at random. Names, capitals, currencies and languages are invented, except
    that `keep_names` leaves countries their names and only permutes the facts.
    """
    inventor = _Inventor(rng, real_names)
    keys = [country.key for country in countries]
    count = len(countries)

    def shuffled() -> list[Country]:
        return [countries[i] for i in rng.permutation(count)]

    neighbourhoods, regions, sizes, areas, histories, seats = (shuffled() for _ in range(6))
    lands = {donor.key: key for key, donor in zip(keys, neighbourhoods, strict=True)}
    names = {c.key: c.name if keep_names else inventor.country() for c in countries}
    renamed = {c.name: names[c.key] for c in countries}
    currencies = {
        name: name if keep_names or not name else inventor.currency() for name in {c.currency: 0 for c in countries}
    }
    languages = {
        name: name if keep_names else inventor.word()
        for name in {language: 0 for c in countries for language in c.languages}
    }
    scale = np.exp(rng.uniform(-0.7, 0.7, (2, count)))
    years = rng.integers(1800, 2016, count)
    out = []
    for i, country in enumerate(countries):
        donor, history, population, area = neighbourhoods[i], histories[i], sizes[i].population, areas[i].area
        varied = replace(
            country,
            name=names[country.key],
            aliases=country.aliases if keep_names else (),
            capital=seats[i].capital if keep_names else inventor.word(),
            capital_aliases=seats[i].capital_aliases if keep_names else (),
            region=regions[i].region,
            population=max(1000, int(population * scale[0, i])) if population else None,
            area=max(2.0, float(area * scale[1, i])) if area else None,
            currency=currencies[donor.currency],
            languages=tuple(languages[language] for language in donor.languages),
            borders=tuple(sorted(lands[key] for key in donor.borders)),
            independence_year=int(years[i]) if history.independence_year else None,
            independence_from=renamed.get(history.independence_from, history.independence_from),
            sources={},
        )
        out.append(replace(varied, facts=display_facts(varied, names)))
    return tuple(out)
