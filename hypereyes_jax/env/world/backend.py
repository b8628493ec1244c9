"""The miniature world as a search backend, in process."""

from __future__ import annotations

import asyncio
from typing import Protocol

from PIL import Image

from hypereyes_jax.env.types import SearchHit


class Searchable(Protocol):
    """A world that answers both searches."""

    def text_search(self, query: str, k: int) -> list[SearchHit]: ...

    def image_search(self, image: Image.Image, k: int) -> list[SearchHit]: ...


class WorldBackend:
    """Implements `SearchBackend`. A search takes well under a millisecond, so it runs on the event loop itself."""

    def __init__(self, world: Searchable, latency: float = 0.0):
        """latency: seconds that every search takes, to stand for a real service."""
        self.world = world
        self.latency = latency

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        if self.latency > 0:
            await asyncio.sleep(self.latency)
        return self.world.text_search(query, k)

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        if self.latency > 0:
            await asyncio.sleep(self.latency)
        return self.world.image_search(image, k)
