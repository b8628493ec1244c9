"""The miniature world: countries with flags, facts, and the two searches that find them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np
from PIL import Image

from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.env.world import factbook, image_index
from hypereyes_jax.env.world.cards import display_facts
from hypereyes_jax.env.world.text_index import TextIndex, words
from hypereyes_jax.env.world.types import Country, Passage
from hypereyes_jax.env.world.variation import vary

# What an image search shows of a country's page. It names no fact: those have to be searched for.
PAGE_INTRO = "Country profile."


class World:
    """A set of countries and the web that describes them. Immutable; its indexes are built when first searched."""

    def __init__(self, countries: Sequence[Country], passages: Sequence[Passage] = ()):
        self._countries = {country.key: country for country in countries}
        self._passages = tuple(passages)

    @classmethod
    def load(cls, passages: bool = True) -> World:
        """The real world. `passages=False` leaves only the key-facts cards. Made once a process."""
        return _load(passages)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._countries)

    @cached_property
    def visual_keys(self) -> tuple[str, ...]:
        """Those with a flag of their own look: only they can stand in a mosaic."""
        return tuple(key for key, country in self._countries.items() if country.flag)

    @property
    def countries(self) -> tuple[Country, ...]:
        return tuple(self._countries.values())

    @property
    def passages(self) -> tuple[Passage, ...]:
        return self._passages

    def country(self, key: str) -> Country:
        """Raises KeyError for a key that is not of this world."""
        return self._countries[key]

    def find(self, name: str) -> Country | None:
        """The country that goes by this name or alias, ignoring case and punctuation."""
        return self._by_name.get(tuple(words(name)))

    @cached_property
    def _by_name(self) -> dict[tuple[str, ...], Country]:
        countries = self.countries[::-1]
        aliases = {tuple(words(alias)): country for country in countries for alias in country.aliases}
        return aliases | {tuple(words(country.name)): country for country in countries}

    def flag(self, key: str) -> Image.Image:
        """RGB, 160 px wide. Raises KeyError where the world has none."""
        if not self._countries[key].flag:
            raise KeyError(f"{self._countries[key].name} has no flag of its own look in this world")
        return image_index.flags()[key]

    def split(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(seen, held out): the keys training may use, and those that only evaluation asks about."""
        held_out = set(held_out_keys())
        return tuple(k for k in self.keys if k not in held_out), tuple(k for k in self.keys if k in held_out)

    def restrict(self, keys: Iterable[str], passages: bool = False) -> World:
        """The world without the other countries: no card, flag, border, former ruler or passage that mentions them.

        Args:
          passages: keep those passages that mention none of the countries removed (and none of their capitals).
        """
        own_keys = set(keys)
        unknown = own_keys - set(self._countries)
        if unknown:
            raise KeyError(f"not of this world: {sorted(unknown)}")
        others = [country for country in self.countries if country.key not in own_keys]
        mention = _mention([name for country in others for name in country.names])
        names = {country.key: country.name for country in self.countries}
        countries = []
        for country in self.countries:
            if country.key not in own_keys:
                continue
            country_here = replace(
                country,
                borders=tuple(key for key in country.borders if key in own_keys),
                independence_from="" if mention.search(country.independence_from) else country.independence_from,
                sources={},
            )
            countries.append(replace(country_here, facts=display_facts(country_here, names)))
        if not passages:
            return World(countries)
        telling = _mention(
            [n for c in others for n in (*c.names, *((c.capital, *c.capital_aliases) if c.capital else ()))]
        )
        return World(countries, [p for p in self._passages if p.key in own_keys and not telling.search(p.text)])

    @cached_property
    def training_world(self) -> World:
        """The part that training may search: no country that is held out, and no passage that mentions one."""
        return self.restrict(self.split()[0], passages=True)

    def varied(self, rng: np.random.Generator) -> World:
        """A world of the same flags whose names and facts are drawn anew, with cards only."""
        out = World(vary(self.countries, rng, _real_names()))
        out.__dict__["images"] = self.images  # the same flags: share the gallery
        return out

    @cached_property
    def text(self) -> TextIndex:
        return TextIndex(self.countries, self._passages)

    @cached_property
    def images(self) -> image_index.ImageIndex:
        return image_index.ImageIndex(self.visual_keys)

    def prepare(self) -> None:
        """Build both indexes now: what may go wrong, a missing package say, then does so here and not in a server."""
        _ = self.text, self.images

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that searches are answered from, in hexadecimal."""
        pages = [
            [country.key, country.names, sorted(country.facts.items()), country.flag] for country in self.countries
        ]
        pages += [[passage.key, passage.section, passage.text] for passage in self.passages]
        return hashlib.sha256(repr(pages).encode()).hexdigest()

    def text_search(self, query: str, k: int) -> list[SearchHit]:
        return self.text.search(query, k)

    def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        """Pages of the countries whose flags look most like the image; the score is the similarity."""
        return [
            SearchHit(self._countries[key].name, PAGE_INTRO, round(score, 4), f"world://{key}")
            for key, score in self.images.search(image, k)
        ]


def _mention(names: Sequence[str]) -> re.Pattern[str]:
    """Finds any of the names as whole words."""
    if not names:
        return re.compile(r"(?!)")
    longest_first = sorted(set(names), key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(re.escape(name) for name in longest_first) + r")(?!\w)", re.IGNORECASE)


@lru_cache(maxsize=2)
def _load(passages: bool) -> World:
    countries, texts = factbook.read()
    return World(countries, texts if passages else ())


@lru_cache(maxsize=1)
def held_out_keys() -> tuple[str, ...]:
    """The keys of held-out countries, from split.json, which tools/make_split.py writes."""
    text = (resources.files("hypereyes_jax.env.world") / "split.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["held_out"])


@lru_cache(maxsize=1)
def _real_names() -> tuple[str, ...]:
    return tuple(name for country in factbook.read()[0] for name in (*country.names, country.capital))
