"""The miniature world over HTTP: what `hypereyes serve-world` serves, asked over real sockets."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from hypereyes_jax.env.media.images import data_uri
from hypereyes_jax.env.search.backends.retriever import RetrieverBackend, read_retrieval
from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.env.web.http import Address, HttpLimits, JsonHttp, check_status


class HttpWorldBackend:
    """Text search by the retriever protocol, image search by POST /image_search with the crop as a base64 data URI.

    Args:
      url: base of the server, such as "http://127.0.0.1:8000".
      image_format: "PNG" loses nothing, "JPEG" (quality 95) is what the authors' published client sends.
    """

    def __init__(self, url: str, *, image_format: Literal["JPEG", "PNG"] = "JPEG", limits: HttpLimits | None = None):
        address = Address.of(url.rstrip("/"))
        base = address.url
        self._text = RetrieverBackend(f"{url.rstrip('/')}/retrieve", limits=limits)
        self._image_url, self._format = f"{base}/image_search", image_format
        self._where = address.where
        self._http = JsonHttp(limits, address.headers)
        self.engine = f"world:{image_format.lower()}"

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        return await self._text.text_search(query, k)

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        body = {"query_image_base64": data_uri(image, self._format), "topk": k}
        reply = await self._http.request("POST", self._image_url, body=body)
        return read_retrieval(check_status(reply, self._where), self._where)[:k]

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        await self._text.aclose()
        await self._http.aclose()
