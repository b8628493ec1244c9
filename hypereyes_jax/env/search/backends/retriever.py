"""The Search-R1 retriever protocol: POST /retrieve, spoken by most open search-agent projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from PIL import Image

from hypereyes_jax.env.types import SearchError, SearchHit
from hypereyes_jax.env.web.http import Address, HttpLimits, JsonHttp, check_status, unusable
from hypereyes_jax.env.web.service_words import failed_beside_nothing

_TEXTS = ("contents", "text", "content", "snippet", "passage")  # of a document; the first two are Search-R1's


class RetrieverBackend:
    """Text search at a Search-R1 style retriever.

    Args:
      url: of the endpoint itself, such as "http://127.0.0.1:8000/retrieve".
      form: "plural" sends {"queries": [q]}, as Search-R1 does; "singular" sends {"query": q}, as some forks expect.
      send_options: send topk and return_scores. The online variants of the server accept nothing but the queries.
    """

    def __init__(
        self,
        url: str,
        *,
        form: Literal["plural", "singular"] = "plural",
        send_options: bool = True,
        limits: HttpLimits | None = None,
    ):
        address = Address.of(url)
        self._url, self._form, self._send_options = address.url, form, send_options
        self._where = address.where
        self._http = JsonHttp(limits, address.headers)
        self.engine = f"retriever:{self._where}{urlsplit(address.url).path}"

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        """The best hits, at most k. Scores are the retriever's own: set EpisodeConfig.text_min_score to its scale."""
        body: dict[str, Any] = {"queries": [query]} if self._form == "plural" else {"query": query}
        if self._send_options:
            body |= {"topk": k, "return_scores": True}
        reply = await self._http.request("POST", self._url, body=body)
        return read_retrieval(check_status(reply, self._where), self._where)[:k]

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        raise SearchError(
            "this search service has no image search", transient=False, refused=True, kind="unsupported", sent=False
        )

    async def aclose(self) -> None:
        await self._http.aclose()


def read_retrieval(data: Any, where: str) -> list[SearchHit]:
    """The first query's hits out of a retriever's reply, in any of its three shapes.

    {"result": [[{"document": {...}, "score": s}]]}, the same without the score, or {"result": [[{"contents": ...}]]}.
    The singular form may leave out the outer list. Raises SearchError (kind "bad_reply") for anything else.
    """
    rows = data.get("result") if isinstance(data, dict) else None
    if isinstance(rows, list) and rows and isinstance(rows[0], list):
        rows = rows[0]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise unusable(data, where, "sent a reply of an unknown shape")
    hits = [_hit(row) for row in rows]
    if not hits and failed_beside_nothing(data):
        raise unusable(data, where, "failed to search")
    if hits and not any(hit.title or hit.content for hit in hits):
        raise unusable(data, where, "sent results without a text")
    return hits


def _hit(row: Mapping[str, Any]) -> SearchHit:
    inner = row.get("document")
    if isinstance(inner, str):
        inner = {"contents": inner}
    document = inner if isinstance(inner, dict) else row
    score: Any = row.get("score")
    url: Any = document.get("url")
    text = next((each for name in _TEXTS if isinstance(each := document.get(name), str) and each), "")
    first, _, rest = text.partition("\n")
    first, title = first.strip().strip('"'), document.get("title")
    if isinstance(title, str) and title.strip() and title.strip().strip('"') != first:
        return SearchHit(title, text.strip(), score, url)  # the text does not begin with the title
    return SearchHit(first, rest.strip(), score, url)
