"""Limits on calls of a search service: concurrency, rate, timeouts, retries, a spending cap, and a circuit breaker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from PIL import Image
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from hypereyes_jax.env.actions import IMAGE_SEARCH, TEXT_SEARCH
from hypereyes_jax.env.search.budget import Budget, OwnBudget
from hypereyes_jax.env.search.config import CallPolicy
from hypereyes_jax.env.search.metrics import SearchMetrics
from hypereyes_jax.env.search.own_backend import checked_hits
from hypereyes_jax.env.types import FatalSearchError, SearchBackend, SearchError, SearchHit
from hypereyes_jax.env.web.per_loop import PerLoop
from hypereyes_jax.env.web.retries import RetryPolicy, retrying


class ResilientBackend:
    """Any SearchBackend, called by a CallPolicy.

    Only transient SearchErrors are tried again. While the circuit is open, searches fail at once (kind "circuit_open").
    A request is paid for when it is sent; the price is given back when it fails, except on a timeout, where the service
    may have charged it. Raises FatalSearchError (kind "spending_cap") rather than exceed the cap.

    Args:
      budget: what it may ask of the service beside others of its run; default this policy's rate and cap alone.
    """

    def __init__(
        self,
        inner: SearchBackend,
        policy: CallPolicy | None = None,
        metrics: SearchMetrics | None = None,
        budget: Budget | None = None,
    ):
        self.inner = inner
        self.policy = policy or CallPolicy()
        self.metrics = metrics or SearchMetrics()
        self.budget = budget or OwnBudget(self.policy)
        self.engine = getattr(inner, "engine", type(inner).__name__)
        self._gates = PerLoop(lambda: _Gate(self.policy))

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        return await self._call(TEXT_SEARCH, lambda: self.inner.text_search(query, k))

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        return await self._call(IMAGE_SEARCH, lambda: self.inner.image_search(image, k))

    async def aclose(self) -> None:
        close = getattr(self.inner, "aclose", None)
        if close is not None:
            await close()

    async def charge(self, dollars: float) -> str:
        """Pays for what a tool beside the searches takes, as for a request. Returns the payment's name, for `refund`.

        Raises FatalSearchError (kind "spending_cap") rather than exceed the cap.
        """
        payment = await self.budget.pay(dollars)
        self.metrics.cost += dollars
        return payment

    async def refund(self, payment: str, dollars: float) -> None:
        """Takes back what was paid for something that was not charged."""
        self.metrics.cost -= dollars
        await self.budget.refund(payment, dollars)

    async def _call(self, tool: str, search: Callable[[], Awaitable[list[SearchHit]]]) -> list[SearchHit]:
        start = time.perf_counter()
        outcome = "cancelled"
        policy = self.policy
        again = retrying(RetryPolicy(policy.attempts, policy.backoff, policy.retry_after_cap, policy.patience))
        try:
            hits: list[SearchHit] = await again(self._attempt, tool, search)
            outcome = "result" if hits else "empty"
            return hits
        except SearchError as error:
            outcome = error.kind
            raise
        finally:
            self.metrics.record(tool, outcome, time.perf_counter() - start)

    async def _attempt(self, tool: str, search: Callable[[], Awaitable[list[SearchHit]]]) -> list[SearchHit]:
        gate = self._gates.get()
        async with gate.slots:
            breaker = await gate.breaker()
            try:
                async with breaker:
                    return await self._send(tool, search)
            except OpenedState:
                message = "the search service failed too often just now and is left alone for a while"
                raise SearchError(message, transient=False, kind="circuit_open", sent=False) from None

    async def _send(self, tool: str, search: Callable[[], Awaitable[list[SearchHit]]]) -> list[SearchHit]:
        price = self.policy.price(tool)
        payment = await self.charge(price)
        self.metrics.attempts += 1
        try:
            async with asyncio.timeout(self.policy.timeout):
                return checked_hits(await search(), self.inner, tool)
        except TimeoutError:
            message = f"no result within {self.policy.timeout:g} s"
            raise SearchError(message, transient=True, kind="timeout") from None
        except SearchError as error:
            if error.kind != "timeout":
                await self.refund(payment, price)
            raise


class _Gate:
    """What belongs to one event loop."""

    def __init__(self, policy: CallPolicy):
        self.slots = asyncio.Semaphore(policy.in_flight)
        self._factory = AsyncCircuitBreakerFactory(policy.breaker_failures, policy.breaker_seconds)
        self._breaker: Any = None

    async def breaker(self) -> Any:
        if self._breaker is None:
            # A refusal or a cancellation says nothing about the service's health, an exhausted account neither.
            excluded: list[Any] = [
                asyncio.CancelledError,
                FatalSearchError,
                (SearchError, lambda error: error.refused),
            ]
            self._breaker = await self._factory.get_breaker("search", exclude=excluded)
        return self._breaker
