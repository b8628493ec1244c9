"""Search results with distractors among them: whether a policy still finds the right one is what is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.env.world import World

_CONTENT = 60  # characters of a distractor's content: ten of them must leave room in a small context


@dataclass(frozen=True)
class Distractors:
    """Pages that do not answer what is searched, by kind of search."""

    texts: tuple[SearchHit, ...]
    images: tuple[SearchHit, ...]


def world_distractors(world: World) -> Distractors:
    """A page for each country of a world, as each kind of search shows it, contents cut short."""
    texts, images = [], []
    for country in world.countries:
        hits = world.text_search(country.name, 1)
        texts += [replace(hit, content=hit.content[:_CONTENT]) for hit in hits]
        images.append(SearchHit(country.name, "Country profile.", 0.0, f"world://{country.key}"))
    return Distractors(tuple(texts), tuple(images))


class DistractedBackend:
    """A backend whose results have `count` other pages among them, in an order drawn by the seed and the search.

    Every hit carries the best one's score, so that neither a threshold nor an order by score sorts the distractors out.
    The paper's figure does not say what its distractors are; these are results of other searches.
    """

    def __init__(self, backend: RecordedBackend, distractors: Distractors, count: int, seed: int, shown: int = 1):
        """shown: right results that are kept of each search, beside the distractors."""
        self._backend, self._distractors = backend, distractors
        self.metrics = backend.metrics
        self._count, self._seed, self._shown = count, seed, shown

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        hits = await self._backend.text_search(query, k)
        return self._mixed(hits, self._distractors.texts, query.encode())

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        hits = await self._backend.image_search(image, k)
        return self._mixed(hits, self._distractors.images, image.tobytes())

    def _mixed(self, hits: Sequence[SearchHit], pages: Sequence[SearchHit], searched: bytes) -> list[SearchHit]:
        right = list(hits[: self._shown])
        if not right:
            return right
        digest = hashlib.sha256(searched).digest()[:8]
        rng = np.random.default_rng([self._seed, int.from_bytes(digest)])
        titles = {hit.title for hit in right}
        others = [page for page in pages if page.title not in titles]
        sample = [others[int(i)] for i in rng.choice(len(others), min(self._count, len(others)), replace=False)]
        combined_hits = [replace(hit, score=right[0].score) for hit in (*right, *sample)]
        return [combined_hits[int(i)] for i in rng.permutation(len(combined_hits))]
