"""Searching videos: SerpApi's google_videos engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from hypereyes_jax.env.actions import TextSearch, read_call
from hypereyes_jax.env.concurrent import all_at_once
from hypereyes_jax.env.grounded_search import failure_text
from hypereyes_jax.env.media.images import ImageError, decode_image
from hypereyes_jax.env.search.backends.serpapi import SerpApiBackend, SerpApiConfig
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError, ToolReply
from hypereyes_jax.env.types import FatalSearchError, Invocation, SearchError, SearchHit
from hypereyes_jax.env.web.urls import UrlError, UrlGuard
from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class VideoSearch:
    """Videos of a query: title, channel, length, and the picture that stands for each.

    Args:
      backend: SerpApi.
      results: shown of each query.
      queries: of one call that are sent.
      thumbnails: pictures shown of each query; they are fetched through the URL guard.
    """

    backend: SerpApiBackend
    results: int = 3
    queries: int = 8
    thumbnails: int = 1
    guard: UrlGuard | None = None
    name: str = "video_search"
    description: str = "finds videos: titles, channels and pictures of them."
    is_search: bool = True
    price: float = 0.0

    @classmethod
    def of_environment(cls) -> VideoSearch:
        """The tool with the key of SERPAPI_API_KEY. Raises UserError without one."""
        key = os.environ.get("SERPAPI_API_KEY", "")
        if not key:
            raise UserError("the tool video_search needs a key: set the environment variable SERPAPI_API_KEY.")
        return cls(SerpApiBackend(SerpApiConfig(key)))

    @property
    def parameters(self) -> Mapping[str, Any]:
        queries = {
            "type": "array",
            "items": {"type": "string"},
            "description": "a list of queries, all searched at once.",
            "examples": [["first query", "second query"]],
        }
        return {"type": "object", "properties": {"input": queries}, "required": ["input"]}

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        call = read_call({"name": "text_search", "arguments": dict(arguments)})
        if not isinstance(call, TextSearch):
            raise ToolError('"input" must be a list of queries: ["...", ...]')
        results = await all_at_once(self._one(query) for query in call.queries[: self.queries])
        failures = tuple(error for _, _, error in results if error is not None)
        left_out = call.invocations - len(results)
        notes = (f"only the first {len(results)} of {call.invocations} queries were searched",) if left_out else ()
        images = [image for _, pictures, _ in results for image in pictures]
        return ToolReply((*images, *notes), tuple(invocation for invocation, _, _ in results), failures)

    async def _one(self, query: str) -> tuple[Invocation, list[Image.Image], SearchError | None]:
        try:
            videos = await self.backend.video_search(query, self.results)
        except FatalSearchError:
            raise
        except SearchError as error:
            return Invocation(self.name, query, error=failure_text(error), sent=error.sent), [], error
        hits: list[SearchHit] = [hit for hit, _ in videos]
        pictures = [await self._thumbnail(url) for _, url in videos[: self.thumbnails] if url]
        return Invocation(self.name, query, hits=tuple(hits)), [each for each in pictures if each is not None], None

    async def _thumbnail(self, url: str) -> Image.Image | None:
        """The picture, or None: a video is found without it, too."""
        try:
            return decode_image(await (self.guard or UrlGuard(max_bytes=4 << 20)).fetch(url))
        except (UrlError, ImageError):
            return None
