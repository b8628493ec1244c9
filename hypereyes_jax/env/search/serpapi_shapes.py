"""Replies in SerpApi's shapes, made from any SearchBackend: the server's side of that protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypereyes_jax.env.media.images import ImageError, decode_image
from hypereyes_jax.env.types import SearchBackend, SearchHit
from hypereyes_jax.env.web.urls import UrlError, UrlGuard

_EMPTY = "Google hasn't returned any results for this query."


async def serpapi_reply(
    backend: SearchBackend, query: Mapping[str, str], guard: UrlGuard
) -> tuple[int, dict[str, Any]]:
    """(HTTP status, body) for the query parameters of one request. An empty result is a 200 with an `error`.

    `guard` fetches the images that the image engines are given by URL.
    """
    engine = query.get("engine", "google")
    needs = {"google": "q", "google_lens": "url", "google_reverse_image": "image_url"}.get(engine)
    if needs is None:
        return 400, {"error": f"Unsupported `{engine}` search engine."}
    if not query.get(needs):
        return 400, {"error": f"Missing query `{needs}` parameter."}
    count = query.get("num", "")
    # Python refuses to read numbers of thousands of digits
    k = int(count) if count.isdecimal() and len(count) <= 3 and 0 < int(count) <= 100 else 10

    if engine == "google":
        return 200, _envelope(engine, "organic_results", await backend.text_search(query["q"], k), _organic)
    try:
        image = decode_image(await guard.fetch(query[needs]))
    except (UrlError, ImageError) as error:
        return 400, {"error": f"Couldn't get the image: {error}"}
    hits = await backend.image_search(image, k)
    if engine == "google_lens":
        return 200, _envelope(engine, "visual_matches", hits, _visual)
    return 200, _envelope(engine, "image_results", hits, _organic)


def _envelope(engine: str, key: str, hits: list[SearchHit], shape: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "search_metadata": {"id": "0", "status": "Success", "total_time_taken": 0.0},
        "search_parameters": {"engine": engine},
    }
    if hits:
        body[key] = [shape(hit, i) for i, hit in enumerate(hits, start=1)]
    else:
        body["error"] = _EMPTY
    return body


def _organic(hit: SearchHit, position: int) -> dict[str, Any]:
    return {"position": position, "title": hit.title, "link": hit.url, "snippet": hit.content}


def _visual(hit: SearchHit, position: int) -> dict[str, Any]:
    return {"position": position, "title": hit.title, "link": hit.url, "source": hit.content}
