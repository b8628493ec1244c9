"""The HTTP server: chat completions, model list, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.types import FatalSearchError, SearchBackend
from hypereyes_jax.env.web.admission import Admission
from hypereyes_jax.env.web.request_body import read_json_body
from hypereyes_jax.env.web.urls import UrlGuard
from hypereyes_jax.errors import UserError
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.rollout.episodes import Generator, GeneratorError
from hypereyes_jax.rollout.openai_api.choices import Choices, agent_choices, policy_choices
from hypereyes_jax.rollout.openai_api.errors import error_response
from hypereyes_jax.rollout.openai_api.requests import (
    BadRequest,
    ChatRequest,
    RequestLimits,
    read_request,
    with_images,
)

Mode = Literal["policy", "agent"]


@dataclass(frozen=True)
class ServerConfig:
    """Where the API is served, and to whom."""

    model: str  # name that clients ask for
    host: str = "127.0.0.1"
    port: int = 8000  # 0 = any free one
    api_key: str = field(default="", repr=False)  # "" = anybody who reaches the port may ask
    cors_origins: tuple[str, ...] = ()  # whose pages may ask from a browser
    in_flight: int = 256  # requests under way; more are told to come again
    fetch_images: bool = True  # http(s) images are fetched, from the public internet only
    max_request_bytes: int = 64 << 20
    limits: RequestLimits = field(default_factory=RequestLimits)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # of a request that does not say


@dataclass(frozen=True)
class AgentSettings:
    """What turns the policy into the agent."""

    backend: SearchBackend
    episode: EpisodeConfig


class _Metrics:
    """Counters for Prometheus, of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("hypereyes_requests", "Requests ended.", ["status"], registry=self.registry)
        self.tokens = Counter("hypereyes_tokens", "Tokens read and written.", ["kind"], registry=self.registry)
        self.running = Gauge("hypereyes_requests_running", "Requests under way.", registry=self.registry)
        self.seconds = Histogram("hypereyes_request_seconds", "Time of a request.", registry=self.registry)


class ChatServer:
    """Answers with a running generator.

    Args:
      agent: None = the bare policy answers.
    """

    def __init__(
        self, generator: Generator, chat: ChatFormat, config: ServerConfig, agent: AgentSettings | None = None
    ):
        self._generator, self._chat, self._config, self._agent = generator, chat, config, agent
        self._admission = Admission(config.host, config.api_key, config.cors_origins, open_paths=("/health",))
        self._metrics = _Metrics()
        self._created = int(time.time())
        self._running = 0

    def application(self) -> web.Application:
        config = self._config
        admit = self._admission.middleware(error_response)
        app = web.Application(middlewares=[admit, _faults], client_max_size=config.max_request_bytes)
        app.router.add_post("/v1/chat/completions", self._chat_completions)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name:.+}", self._model)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._prometheus)
        return app

    async def _health(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [self._card()]})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self._check_model(request.match_info["name"])
        return web.json_response(self._card())

    async def _prometheus(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=generate_latest(self._metrics.registry), content_type="text/plain", charset="utf-8")

    def _card(self) -> dict[str, Any]:
        return {"id": self._config.model, "object": "model", "created": self._created, "owned_by": "hypereyes-jax"}

    def _check_model(self, name: str) -> None:
        if name and name != self._config.model:
            message = f"the model {name[:200]!r} does not exist here; this server has {self._config.model!r}"
            raise BadRequest(message, "model", status=404, code="model_not_found")

    async def _chat_completions(self, http: web.Request) -> web.StreamResponse:
        if self._running >= self._config.in_flight:
            self._metrics.requests.labels("429").inc()
            return error_response("too many requests are under way; try again soon", 429, "rate_limit_exceeded")
        self._running += 1
        began, status = time.perf_counter(), "499"  # the client left
        try:
            with self._metrics.running.track_inprogress():
                response, code = await self._answer(http)
            status = str(code)
            return response
        except ConnectionError:
            raise  # the client left while it was written to
        except Exception as error:
            status = str(_status(error))
            raise
        finally:
            self._running -= 1
            self._metrics.requests.labels(status).inc()
            self._metrics.seconds.observe(time.perf_counter() - began)

    async def _answer(self, http: web.Request) -> tuple[web.StreamResponse, int]:
        """The reply, and the status that it counts as: a stream that fails has begun with 200."""
        try:
            body = await read_json_body(http)
        except ValueError:
            raise BadRequest("the body is not JSON") from None
        request = read_request(body, self._config.sampling, self._config.limits, thinks=self._chat.thinks)
        self._check_model(request.model)
        request = await with_images(request, UrlGuard() if self._config.fetch_images else None, self._config.limits)
        choices = self._choices(request)
        frame = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": self._config.model,
        }
        if request.stream:
            return await self._stream(http, request, choices, frame)
        async for _ in choices.deltas():
            pass
        self._count(choices)
        body = {**frame, "object": "chat.completion", "choices": choices.whole(), "usage": choices.usage()}
        return web.json_response(body), 200

    def _choices(self, request: ChatRequest) -> Choices:
        if self._agent is None:
            return policy_choices(self._generator, self._chat, request)
        return agent_choices(self._generator, self._chat, request, self._agent.backend, self._agent.episode)

    async def _stream(
        self, http: web.Request, request: ChatRequest, choices: Choices, frame: dict[str, Any]
    ) -> tuple[web.StreamResponse, int]:
        deltas = choices.deltas()
        try:
            first = await anext(deltas)  # a request that can't be answered is refused before the stream begins
        except StopAsyncIteration:
            raise BadRequest("there is nothing to answer", "messages") from None
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        cors = self._admission.cors_headers(http.headers.get("Origin"))
        response = web.StreamResponse(headers=headers | cors)
        await response.prepare(http)

        async def send(event: dict[str, Any]) -> None:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())

        chunk = {**frame, "object": "chat.completion.chunk"} | ({"usage": None} if request.include_usage else {})
        try:
            await send({**chunk, "choices": [first]})
            async for delta in deltas:
                await send({**chunk, "choices": [delta]})
        except (FatalSearchError, GeneratorError, BadRequest) as error:  # too late for a status
            await send({"error": {"message": str(error), "type": "server_error", "code": "failed"}})
            await response.write_eof()
            return response, _status(error)
        if request.include_usage:
            await send({**chunk, "choices": [], "usage": choices.usage()})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        self._count(choices)
        return response, 200

    def _count(self, choices: Choices) -> None:
        usage = choices.usage()
        self._metrics.tokens.labels("read").inc(usage["prompt_tokens"])
        self._metrics.tokens.labels("written").inc(usage["completion_tokens"])


@contextlib.asynccontextmanager
async def running_server(server: ChatServer, config: ServerConfig) -> AsyncIterator[str]:
    """Serves on the running event loop until the block ends; gives the base URL.

    Raises:
      UserError: the port is taken or may not be used.
    """
    runner = web.AppRunner(
        server.application(),
        access_log=None,
        shutdown_timeout=5.0,
        handler_cancellation=True,  # a client that leaves gives its slot back
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, config.host, config.port, backlog=1024).start()
        except OSError as error:
            raise UserError(
                f"can't serve on {config.host}:{config.port} ({error.strerror}). Choose another --port, or 0 for any "
                "free one."
            ) from error
        host, port = runner.addresses[0][:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        await runner.cleanup()


def _status(error: Exception) -> int:
    """The status that a request gets which ends with an error."""
    match error:
        case BadRequest() | web.HTTPException():
            return error.status
        case FatalSearchError() | GeneratorError():
            return 503
    return 500


@web.middleware
async def _faults(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Errors in the shape of the API."""
    try:
        return await handler(request)
    except BadRequest as error:
        return error_response(str(error), error.status, error.code, error.param)
    except web.HTTPRequestEntityTooLarge:
        return error_response("the request is larger than this server takes", 413, "request_too_large")
    except web.HTTPException as error:
        return error_response(error.reason, error.status, "not_found" if error.status == 404 else "http_error")
    except (FatalSearchError, GeneratorError) as error:
        return error_response(str(error), _status(error), "unavailable")
    except asyncio.CancelledError:
        raise
