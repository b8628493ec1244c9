"""SerpApi: Google text search, Google Lens and Google reverse image search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from hypereyes_jax.env.search.backends.image_host import ImageHost
from hypereyes_jax.env.search.config import ImageEngine
from hypereyes_jax.env.types import MISSING_SCORE, FatalSearchError, SearchHit
from hypereyes_jax.env.web.http import Address, HttpLimits, JsonHttp, Reply, check_status, unusable
from hypereyes_jax.env.web.service_words import found_nothing
from hypereyes_jax.env.web.untrusted import one_line

_RESULTS = ("organic_results", "image_results", "visual_matches", "exact_matches", "video_results")
_OF_FORM = frozenset("type title link displayed_link source thumbnail favicon image".split())  # of an answer's box
_FACTS_CHARACTERS = 500


@dataclass(frozen=True)
class SerpApiConfig:
    """An account of SerpApi, and how it is asked."""

    api_key: str = field(repr=False)  # a printed or saved configuration must not hold it
    image_engine: ImageEngine = "google_reverse_image"
    url: str = "https://serpapi.com/search.json"
    language: str = ""  # hl; "" = the service's default
    country: str = ""  # gl (google) and country (google_lens)
    no_cache: bool = False  # identical searches within an hour are free unless this is set


class SerpApiBackend:
    """Needs an ImageHost for image search, since both image engines fetch the image from a public URL.

    Results carry no score: each gets 0.8, above the text threshold, in the service's order. A 200 reply whose `error`
    says that nothing was found is an empty result. HTTP 429 is transient when it is about throughput, and ends the run
    when the account has run out of searches.
    """

    def __init__(self, config: SerpApiConfig, image_host: ImageHost | None = None, limits: HttpLimits | None = None):
        self._config, self._host = config, image_host
        address = Address.of(config.url)
        self._url, self._where = address.url, address.where
        self._http = JsonHttp(limits, address.headers)
        self.engine = f"serpapi:{config.image_engine}:hl={config.language}:gl={config.country}"

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        params = {"engine": "google", "q": query, "num": str(k)}
        if self._config.country:
            params["gl"] = self._config.country
        data = await self._get(params)
        return [*_answers(data), *map(_organic, _rows(data, "organic_results"))][:k]

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        if self._host is None:
            message = "image search by SerpApi needs an ImageHost that gives crops a public URL"
            raise FatalSearchError(message, kind="no_image_host")
        url = await self._host.put(image)
        if self._config.image_engine == "google_lens":
            params = {"engine": "google_lens", "url": url}
            if self._config.country:
                params["country"] = self._config.country
            data = await self._get(params)
            hits = [_visual(row) for key in ("exact_matches", "visual_matches") for row in _rows(data, key)]
        else:
            data = await self._get({"engine": "google_reverse_image", "image_url": url})
            hits = [_organic(row) for row in _rows(data, "image_results")]
        return [*_graph(data), *hits][:k]

    async def video_search(self, query: str, k: int) -> list[tuple[SearchHit, str]]:
        """Videos by Google, at most k, each with the address of its picture ("" where there is none)."""
        data = await self._get({"engine": "google_videos", "q": query})
        return [(_video(row), _text(row.get("thumbnail"))) for row in _rows(data, "video_results")][:k]

    async def aclose(self) -> None:
        await self._http.aclose()
        if self._host is not None:
            await self._host.aclose()

    async def _get(self, params: dict[str, str]) -> dict[str, Any]:
        params = params | {"api_key": self._config.api_key}
        if self._config.language:
            params["hl"] = self._config.language
        if self._config.no_cache:
            params["no_cache"] = "true"
        return read_reply(await self._http.request("GET", self._url, params=params), self._where)


def read_reply(reply: Reply, where: str) -> dict[str, Any]:
    """The body of a search that worked, found something or not. Raises SearchError or FatalSearchError."""
    data = check_status(reply, where)
    if not isinstance(data, dict) or not ("search_metadata" in data or "error" in data):
        raise unusable(data, where, "sent a reply of an unknown shape")
    metadata = data.get("search_metadata")
    status = metadata.get("status") if isinstance(metadata, dict) else None
    if status != "Success":
        failure = unusable(data, where, f"did not finish the search (status {one_line(str(status), 40)})")
        failure.kind = "unfinished" if failure.transient else failure.kind
        raise failure
    error = data.get("error")
    if error and not found_nothing(data):
        raise unusable(data, where, "failed to search")
    for key in _RESULTS:
        rows = data.get(key)
        if rows is not None and (not isinstance(rows, list) or (rows and not _rows(data, key))):
            raise unusable(data, where, f"sent {key} that are not a list of results")
    return data


def _rows(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = data.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _answers(data: dict[str, Any]) -> list[SearchHit]:
    box = data.get("answer_box")
    if not isinstance(box, dict):
        return _graph(data)
    text = _join(box.get("answer"), box.get("snippet")) or _facts(box)
    hit = SearchHit(_text(box.get("title")), text, MISSING_SCORE, _text(box.get("link")))
    return [hit, *_graph(data)] if text else _graph(data)


def _facts(box: dict[str, Any]) -> str:
    """What a box says in fields of its kind, as those of populations, sums and rates do."""
    return ", ".join(
        f"{name.replace('_', ' ')}: {value}"
        for name, value in box.items()
        if name not in _OF_FORM and isinstance(value, str | int | float) and "://" not in str(value)[:16]
    )[:_FACTS_CHARACTERS]


def _graph(data: dict[str, Any]) -> list[SearchHit]:
    """The knowledge graph: one object for text search, a list of them for some image searches."""
    graph = data.get("knowledge_graph")
    entries = graph if isinstance(graph, list) else [graph]
    return [
        SearchHit(
            _text(entry.get("title")),
            _join(entry.get("type"), entry.get("subtitle"), entry.get("description")),
            MISSING_SCORE,
            _text(entry.get("link") or entry.get("website")),
        )
        for entry in entries
        if isinstance(entry, dict) and entry.get("title")
    ]


def _organic(row: dict[str, Any]) -> SearchHit:
    content = _join(row.get("snippet"), row.get("date"))
    return SearchHit(_text(row.get("title")), content, MISSING_SCORE, _text(row.get("link")))


def _video(row: dict[str, Any]) -> SearchHit:
    details = [row.get("snippet"), row.get("source"), row.get("channel"), row.get("duration"), row.get("date")]
    return SearchHit(_text(row.get("title")), _join(*details), MISSING_SCORE, _text(row.get("link")))


def _visual(row: dict[str, Any]) -> SearchHit:
    price = row.get("price")
    content = _join(row.get("source"), price.get("value") if isinstance(price, dict) else None)
    return SearchHit(_text(row.get("title")), content, MISSING_SCORE, _text(row.get("link")))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _join(*values: Any) -> str:
    return " ".join(value for value in values if isinstance(value, str) and value)
