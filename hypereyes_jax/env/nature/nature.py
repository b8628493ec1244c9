"""Animals, plants and food: pictures (Noto Emoji), facts (WordNet), and the two searches that find them.

It stands beside the world of flags to ask whether what was learnt there transfers: the same tools and the same form of
results, other pictures, names and facts. tools/make_pictures.py makes its data; NOTICE says where they are from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np
from PIL import Image

from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.env.world.image_index import ImageIndex, views_of

# The facts of an entity, by the word that asks for each, in the order they stand on its page.
ATTRIBUTES = ("group", "kind", "kinds")
_LABELS = {"group": "Group", "kind": "Kind", "kinds": "Number of kinds"}
_PAGE_INTRO = "Encyclopedia page."
_NAMED = 0.6  # score of a page whose name is in the query, before its attribute is
_HELD_OUT = 3  # every so many entities, in alphabetical order, are asked about in evaluation only


@dataclass(frozen=True)
class Entity:
    """An animal, a plant or a food."""

    key: str
    name: str
    aliases: tuple[str, ...]
    group: str  # a class people know: "bird", "edible fruit"
    kind: str  # the next more general term
    kinds: int  # more special terms, on all levels
    gloss: str

    def fact(self, attribute: str) -> str:
        """The value of a fact, spelt as its page spells it."""
        return str(getattr(self, attribute))

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


class Nature:
    """Some entities and the web that describes them. Immutable."""

    def __init__(self, entities: Iterable[Entity]):
        self._entities = {entity.key: entity for entity in entities}

    @classmethod
    def load(cls) -> Nature:
        """All of them."""
        return cls(_read())

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._entities)

    def entity(self, key: str) -> Entity:
        """Raises KeyError for a key that is not of this world."""
        return self._entities[key]

    def picture(self, key: str) -> Image.Image:
        """RGB, 96 x 96 px."""
        return pictures()[key]

    def split(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(seen, held out): the keys that questions of training may be about, and those of evaluation."""
        held_out = self.keys[::_HELD_OUT]
        return tuple(key for key in self.keys if key not in held_out), held_out

    def prepare(self) -> None:
        """Build both indexes now: what may go wrong, a missing package say, then does so here and not in a server."""
        _ = self._pattern, self._index

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that searches are answered from, in hexadecimal."""
        return hashlib.sha256(repr(list(self._entities.values())).encode()).hexdigest()

    @cached_property
    def _index(self) -> ImageIndex:
        return ImageIndex(self.keys, _gallery())

    @cached_property
    def _by_name(self) -> Mapping[str, Entity]:
        entities = list(self._entities.values())[::-1]
        aliases = {_plain(alias): entity for entity in entities for alias in entity.aliases}
        return aliases | {_plain(entity.name): entity for entity in entities}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._by_name, key=len, reverse=True)
        return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)")

    def text_search(self, query: str, k: int) -> list[SearchHit]:
        """Pages of the entities that the query names, each with the facts that it asks for, or with its gloss."""
        words = _plain(query)
        keys = dict.fromkeys(self._by_name[match].key for match in self._pattern.findall(words))
        rest = set(self._pattern.sub(" ", words).split())
        attributes = [attribute for attribute in ATTRIBUTES if attribute in rest]
        hits = []
        for key in keys:
            entity = self._entities[key]
            facts = " ".join(f"{_LABELS[attribute]}: {entity.fact(attribute)}." for attribute in attributes)
            score = 0.97 if attributes else _NAMED
            hits.append(SearchHit(entity.name, facts or f"{entity.gloss}.", score, f"nature://{key}"))
        return hits[:k]

    def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        """Pages of the entities whose pictures look most like the image; the score is the similarity."""
        return [
            SearchHit(self._entities[key].name, _PAGE_INTRO, round(score, 4), f"nature://{key}")
            for key, score in self._index.search(image, k)
        ]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


@lru_cache(maxsize=1)
def _read() -> tuple[Entity, ...]:
    text = (resources.files("hypereyes_jax.env.nature") / "facts.json").read_text(encoding="utf-8")
    return tuple(
        Entity(key, **{**fields, "aliases": tuple(fields["aliases"])}) for key, fields in json.loads(text).items()
    )


@lru_cache(maxsize=1)
def pictures() -> dict[str, Image.Image]:
    """Key -> picture."""
    folder = resources.files("hypereyes_jax.env.nature") / "pictures"
    images = {}
    for entity in _read():
        with (folder / f"{entity.key}.png").open("rb") as file:
            images[entity.key] = Image.open(file).convert("RGB")
    return images


@lru_cache(maxsize=1)
def _gallery() -> tuple[tuple[str, ...], np.ndarray]:
    return views_of(pictures())
