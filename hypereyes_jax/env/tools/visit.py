"""Reading a page that a search result named. Needs the package extra `visit`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError, ToolReply
from hypereyes_jax.env.types import Invocation
from hypereyes_jax.env.web.untrusted import encodable
from hypereyes_jax.env.web.urls import UrlError, UrlGuard
from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class Visit:
    """Fetches a page through the URL guard and shows its readable text, without menus and advertisements.

    Args:
      characters: of a page that are shown; the rest is left out, and the model is told.
      is_search: whether a visit counts in t_s.
    """

    characters: int = 6000
    is_search: bool = True
    price: float = 0.0
    name: str = "visit"
    description: str = "reads the text of a web page."
    guard: UrlGuard = field(default_factory=lambda: UrlGuard(max_bytes=4 << 20), repr=False)

    def __post_init__(self) -> None:
        try:
            import trafilatura  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise UserError(f"the tool visit needs: pip install 'hypereyes-jax[visit]' ({error}).") from error

    @property
    def parameters(self) -> Mapping[str, Any]:
        url = {"type": "string", "description": "the page's address.", "examples": ["https://example.org/page"]}
        return {"type": "object", "properties": {"url": url}, "required": ["url"]}

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        url = arguments.get("url")
        if not isinstance(url, str) or not url.strip():
            raise ToolError('"url" must be the address of a page')
        try:
            data = await self.guard.fetch(url.strip())
        except UrlError as error:
            # A page that is gone says nothing about the world: there are others.
            raise ToolError(f"the page can't be read: {error}") from None
        text = await asyncio.to_thread(readable_text, data)
        if not text:
            raise ToolError("the page holds no readable text")
        text_shown = text[: self.characters]
        note = (
            f"\n({len(text) - len(text_shown):,} more characters were left out)" if len(text) > len(text_shown) else ""
        )
        visited = Invocation(self.name, url[:300], sent=self.is_search)
        return ToolReply((text_shown + note,), (visited,))


def readable_text(data: bytes) -> str:
    """The main text of an HTML page, or a plain text itself; "" where there is none."""
    import trafilatura

    if b"\0" in data[:1000]:
        return ""  # an image or a document of another kind
    article = trafilatura.extract(data, include_comments=False, include_tables=True)
    if article:
        return encodable(article).strip()
    head = data[:2000].lower()
    return "" if b"<html" in head or b"<!doctype" in head else data.decode("utf-8", "replace").strip()
