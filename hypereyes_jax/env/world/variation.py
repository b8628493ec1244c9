"""Worlds with the same shape as the real one but other facts, so that a model learns to read instead of to remember.

With fixed names a small model memorises which flag belongs to which name and never learns to use what a search
returned; with names and facts drawn anew it must copy from the results.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from hypereyes_jax.env.world.cards import display_facts
from hypereyes_jax.env.world.types import Country

_PIECES = (2, 3, 4)  # letters of the pieces that invented words are put together from
_COMPOSED = 0.4  # share of names of more than a plain word; about a quarter of the real countries' and capitals' are
_WORD = re.compile(r"[^\W\d_]{3,}")
_CAPITAL, _SMALL = "\ue000", "\ue001"  # where a form of names has an invented word, capitalised or not
_INVENTED = re.compile(f"[{_CAPITAL}{_SMALL}]")


class _Inventor:
    """Puts pieces of real words together into words that it has not drawn before and that are not real names.

    Any syllable rule would make names that look alike, and a model that has learnt the rule spells what it expects
    instead of what it reads. Pieces cut at random from real names have the letters of real names and no such rule.
    """

    def __init__(self, rng: np.random.Generator, models: Iterable[str], taken: Iterable[str]):
        self._rng = rng
        self._pieces = _pieces(tuple(models))
        self._taken = {name.lower() for name in taken}
        self._numbers: list[int] = []

    def _pick(self, options: Sequence[str]) -> str:
        return options[self._number() % len(options)]

    def _number(self) -> int:
        if not self._numbers:  # numpy draws one number as slowly as a thousand
            self._numbers = self._rng.integers(0, 2**31, 1024).tolist()
        return self._numbers.pop()

    def word(self) -> str:
        while True:
            name = "".join(self._pick(self._pieces) for _ in range(2 if self._pick("abc") != "a" else 3))
            if name not in self._taken:
                self._taken.add(name)
                return name.capitalize()

    def name(self, like: Iterable[str]) -> str:
        """A name of one plain word, or put together like one of `like`."""
        plain, composed = _forms(tuple(like))
        form = self._pick(composed if composed and self._number() < _COMPOSED * 2**31 else plain)
        return _INVENTED.sub(lambda mark: self.word() if mark[0] == _CAPITAL else self.word().lower(), form)


@lru_cache(maxsize=4)
def _pieces(names: tuple[str, ...]) -> tuple[str, ...]:
    """Every run of 2 to 4 letters in the words of the names, as often as it occurs."""
    words = [word.lower() for name in names for word in re.findall(r"[^\W\d_]{4,}", name)]
    return tuple(word[i : i + size] for word in words for size in _PIECES for i in range(len(word) - size + 1))


@lru_cache(maxsize=8)
def _forms(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How names of one word and how longer ones are put together: "Saint _ and _", "_-_", "_, D.C.", "North _".

    Words that several of the longer names share stay, and so does what is not a word; all others are to be invented.
    """
    longer = [name for name in names if not name.isalpha()]
    uses = Counter(word for name in longer for word in set(_WORD.findall(name)))

    def form(name: str) -> str:
        return _WORD.sub(lambda word: word[0] if uses[word[0]] > 1 else _blank(word[0]), name)

    plain = tuple(_blank(name) for name in names if name.isalpha()) or (_CAPITAL,)
    return plain, tuple(each for each in map(form, longer) if _INVENTED.search(each))


def _blank(word: str) -> str:
    return _CAPITAL if word[0].isupper() else _SMALL


def vary(countries: Sequence[Country], rng: np.random.Generator, real_names: Iterable[str]) -> tuple[Country, ...]:
    """Countries with the same keys (and so the same flags) and other facts, consistent among themselves.

    Borders, currency and languages move together to another country, as do, each for itself, region, population, area
    and independence; numbers are then scaled at random. Names, capitals, currencies and languages are invented.
    """
    old_names = [c.name for c in countries]
    capitals = [c.capital for c in countries]
    coins = list(dict.fromkeys(c.currency for c in countries if c.currency))
    tongues = list(dict.fromkeys(language for c in countries for language in c.languages))
    models = [
        *old_names,
        *capitals,
        *(c.currency for c in countries),
        *(each for c in countries for each in c.languages),
    ]
    inventor = _Inventor(rng, models, real_names)
    keys = [country.key for country in countries]
    count = len(countries)

    def shuffled() -> list[Country]:
        return [countries[i] for i in rng.permutation(count)]

    neighbourhoods, regions, sizes, areas, histories = (shuffled() for _ in range(5))
    lands = {donor.key: key for key, donor in zip(keys, neighbourhoods, strict=True)}
    names = {c.key: inventor.name(old_names) for c in countries}
    new_names = {c.name: names[c.key] for c in countries}
    currencies = {"": ""} | {name: inventor.name(coins) for name in coins}
    languages = {name: inventor.name(tongues) for name in tongues}
    scale = np.exp(rng.uniform(-0.7, 0.7, (2, count)))
    years = rng.integers(1800, 2016, count)
    out = []
    for i, country in enumerate(countries):
        donor, history, population, area = neighbourhoods[i], histories[i], sizes[i].population, areas[i].area
        varied = replace(
            country,
            name=names[country.key],
            aliases=(),
            capital=inventor.name(capitals),
            capital_aliases=(),
            region=regions[i].region,
            population=max(1000, int(population * scale[0, i])) if population else None,
            area=max(2.0, float(area * scale[1, i])) if area else None,
            currency=currencies[donor.currency],
            languages=tuple(languages[language] for language in donor.languages),
            borders=tuple(sorted(lands[key] for key in donor.borders)),
            independence_year=int(years[i]) if history.independence_year else None,
            independence_from=new_names.get(history.independence_from, history.independence_from),
            sources={},
        )
        out.append(replace(varied, facts=display_facts(varied, names)))
    return tuple(out)
