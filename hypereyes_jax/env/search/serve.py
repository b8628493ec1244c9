"""A server of any SearchBackend, by default the miniature world, over loopback.

It speaks the Search-R1 retriever protocol (POST /retrieve), image search by base64 (POST /image_search) and the SerpApi
shapes (GET /search: google, google_lens, google_reverse_image), with latency and faults to order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from hypereyes_jax.env.media.images import ImageError, read_base64_image
from hypereyes_jax.env.search.faults import FaultInjector, FaultPlan
from hypereyes_jax.env.search.serpapi_shapes import serpapi_reply
from hypereyes_jax.env.types import SearchBackend, SearchError, SearchHit
from hypereyes_jax.env.web.admission import Admission
from hypereyes_jax.env.web.app_thread import report_failure
from hypereyes_jax.env.web.loopback import is_loopback
from hypereyes_jax.env.web.request_body import read_json_body
from hypereyes_jax.env.web.urls import UrlGuard
from hypereyes_jax.errors import UserError

_DEFAULT_TOPK = 10
_MOST_QUERIES, _MOST_CHARACTERS = 1024, 262_144  # of a request; the world reads about a million in seconds


@dataclass(frozen=True)
class SearchServerConfig:
    """Where the miniature world is served, and with which faults."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 = any free one
    faults: FaultPlan = field(default_factory=FaultPlan)
    api_key: str = ""  # when set, every request must carry it
    max_request_bytes: int = 64 << 20


@dataclass(frozen=True)
class RunningServer:
    """A server that is up."""

    url: str  # "http://127.0.0.1:PORT"
    served: dict[str, int]  # counts of faults served; "" = good replies


@contextlib.asynccontextmanager
async def serving(backend: SearchBackend, config: SearchServerConfig | None = None) -> AsyncIterator[RunningServer]:
    """Serves `backend` on the running event loop until the block ends.

    Raises:
      UserError: the port is taken or may not be used.
    """
    config = config or SearchServerConfig()
    injector = FaultInjector(config.faults)
    runner = web.AppRunner(
        _application(backend, config, injector),
        access_log=None,
        shutdown_timeout=0.5,
        handler_cancellation=True,  # a hung reply ends with its client
    )
    asyncio.get_running_loop().set_exception_handler(report_failure)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise UserError(
                f"can't serve on {config.host}:{config.port} ({error.strerror}). "
                "Choose another port, or 0 for a free one."
            ) from error
        host, port = runner.addresses[0][:2]
        yield RunningServer(f"http://{host}:{port}", injector.served)
    finally:
        await runner.cleanup()


async def serve(
    backend: SearchBackend,
    config: SearchServerConfig | None = None,
    on_ready: Callable[[RunningServer], None] | None = None,
) -> None:
    """Serves until cancelled."""
    async with serving(backend, config) as server:
        if on_ready is not None:
            on_ready(server)
        await asyncio.Event().wait()


@contextlib.contextmanager
def serving_in_thread(backend: SearchBackend, config: SearchServerConfig | None = None) -> Iterator[RunningServer]:
    """`serving` for callers without an event loop: the server has a thread of its own until the block ends."""
    ready: list[RunningServer] = []
    failure: list[BaseException] = []
    is_up, loop = threading.Event(), asyncio.new_event_loop()

    def on_ready(server: RunningServer) -> None:
        ready.append(server)
        is_up.set()

    task = loop.create_task(serve(backend, config, on_ready))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except (UserError, OSError) as error:
            failure.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            is_up.set()

    thread = threading.Thread(target=run, name="search-server", daemon=True)
    thread.start()
    is_up.wait()
    if failure:
        thread.join()
        raise failure[0]
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _application(backend: SearchBackend, config: SearchServerConfig, injector: FaultInjector) -> web.Application:
    @web.middleware
    async def faults(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path == "/health":
            return await handler(request)
        return await injector.serve(request, handler)

    async def health(request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def retrieve(request: web.Request) -> web.StreamResponse:
        body = await _json_body(request)
        queries = body.get("queries", body.get("query"))
        if isinstance(queries, str):
            queries = [queries]
        if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
            return web.json_response({"error": "`queries` must be a list of strings"}, status=422)
        if len(queries) > _MOST_QUERIES or sum(map(len, queries)) > _MOST_CHARACTERS:
            error = f"at most {_MOST_QUERIES} queries of {_MOST_CHARACTERS:,} characters in all are taken at a time"
            return web.json_response({"error": error}, status=413)
        k = _topk(body)
        results = await asyncio.gather(*(backend.text_search(query, k) for query in queries))
        with_scores = body.get("return_scores") is True
        return web.json_response(
            {"result": [[_document(hit, i, with_scores) for i, hit in enumerate(hits)] for hits in results]}
        )

    async def image_search(request: web.Request) -> web.StreamResponse:
        body = await _json_body(request)
        try:
            image = read_base64_image(str(body.get("query_image_base64") or ""))
        except ImageError as error:
            return web.json_response({"error": str(error)}, status=422)
        hits = await backend.image_search(image, _topk(body))
        return web.json_response({"result": [[_document(hit, i, True) for i, hit in enumerate(hits)]]})

    async def serpapi(request: web.Request) -> web.StreamResponse:
        status, data = await serpapi_reply(backend, request.query, guard)
        return web.json_response(data, status=status)

    # A server that only this machine reaches may fetch crops from an image host on this machine; any other must not be
    # a door into the private network.
    guard = UrlGuard(allow_private=True, ports=None) if is_loopback(config.host) else UrlGuard()

    admit = Admission(config.host, config.api_key).middleware()
    app = web.Application(middlewares=[admit, faults, _search_errors], client_max_size=config.max_request_bytes)
    app.router.add_get("/health", health)
    app.router.add_post("/retrieve", retrieve)
    app.router.add_post("/image_search", image_search)
    app.router.add_get("/search", serpapi)
    app.router.add_get("/search.json", serpapi)
    return app


@web.middleware
async def _search_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except SearchError as error:
        return web.json_response({"error": str(error)}, status=503 if error.transient else 400)


async def _json_body(request: web.Request) -> dict[str, Any]:
    try:
        body = await read_json_body(request)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        message = json.dumps({"error": "the body must be a JSON object"})
        raise web.HTTPUnprocessableEntity(text=message, content_type="application/json")
    return body


def _topk(body: dict[str, Any]) -> int:
    # 0 and null mean the default, as at the reference server.
    topk = body.get("topk")
    return topk if isinstance(topk, int) and 0 < topk <= 100 else _DEFAULT_TOPK


def _document(hit: SearchHit, index: int, with_score: bool) -> dict[str, Any]:
    document = {"id": str(index), "contents": f'"{hit.title}"\n{hit.content}', "url": hit.url}
    return {"document": document, "score": hit.score} if with_score else document
