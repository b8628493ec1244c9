"""Faults to order: what goes wrong at a search service, served on purpose so that clients are tested against it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from hypereyes_jax.errors import SettingError

FAULTS = (
    "error_500",
    "error_503",
    "throttled_429",  # too many requests: waiting helps
    "no_credit_429",  # the account is empty: waiting does not help
    "bad_request_400",
    "bad_key_401",
    "truncated_json",  # a valid reply cut in half
    "malformed_json",
    "wrong_shape",  # valid JSON of another kind
    "cut_connection",  # the body ends before its stated length
    "hang",  # nothing is ever sent
    "drip",  # one byte at a time
)


@dataclass(frozen=True)
class FaultPlan:
    """How often each fault happens, and how slow a good reply is."""

    rates: Mapping[str, float] = field(default_factory=dict)  # fault -> share of requests
    latency: float = 0.0  # seconds before each reply
    latency_jitter: float = 0.0  # seconds; a uniform addition of 0 to this
    hang_seconds: float = 3600.0
    drip_seconds: float = 0.5  # between bytes
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.rates) - set(FAULTS)
        if unknown:
            raise SettingError(f"unknown faults {sorted(unknown)}; there are: {', '.join(FAULTS)}")
        if not all(rate >= 0 for rate in self.rates.values()) or sum(self.rates.values()) > 1:
            raise SettingError("fault rates must be shares that add up to at most 1")


class FaultInjector:
    """aiohttp middleware. A request may order its own fault with the header `X-Fault`."""

    def __init__(self, plan: FaultPlan):
        self._plan = plan
        self._random = random.Random(plan.seed)
        self.served: dict[str, int] = {}  # fault -> count; "" = a good reply

    def pick(self) -> str:
        draw = self._random.random()
        for fault, rate in self._plan.rates.items():
            draw -= rate
            if draw < 0:
                return fault
        return ""

    async def serve(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        fault = request.headers.get("X-Fault") or self.pick()
        self.served[fault] = self.served.get(fault, 0) + 1
        plan = self._plan
        delay = plan.latency + self._random.uniform(0, plan.latency_jitter)
        if delay:
            await asyncio.sleep(delay)
        if fault == "hang":
            await asyncio.sleep(plan.hang_seconds)
        refusal = _REFUSALS.get(fault)
        if refusal is not None:
            status, message = refusal
            return web.json_response({"error": message}, status=status)
        if fault == "malformed_json":
            return web.Response(text='{"result": [[{]]', content_type="application/json")
        if fault == "wrong_shape":
            return web.json_response({"unexpected": ["reply"]})
        reply = await handler(request)
        if fault not in ("truncated_json", "cut_connection", "drip") or not isinstance(reply, web.Response):
            return reply
        body = reply.body if isinstance(reply.body, bytes) else b""
        if fault == "truncated_json":
            return web.Response(body=body[: len(body) // 2], content_type="application/json")
        return await self._spoil(fault, request, body)

    async def _spoil(self, fault: str, request: web.Request, body: bytes) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        with contextlib.suppress(ConnectionError):  # a client that loses patience is what this is for
            await stream.prepare(request)
            if fault == "cut_connection":
                await stream.write(body[: len(body) // 2])
                if request.transport is not None:
                    request.transport.abort()
                return stream
            for i in range(len(body)):
                await stream.write(body[i : i + 1])
                await asyncio.sleep(self._plan.drip_seconds)
        return stream


_REFUSALS = {
    "error_500": (500, "Internal error."),
    "error_503": (503, "Service unavailable."),
    "throttled_429": (429, "You are exceeding the hourly throughput limit."),
    "no_credit_429": (429, "Your account has run out of searches."),
    "bad_request_400": (400, "Missing query `q` parameter."),
    "bad_key_401": (401, "Invalid API key."),
}
