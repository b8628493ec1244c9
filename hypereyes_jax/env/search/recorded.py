"""Record and replay: a SearchBackend that answers from a store, or asks and remembers."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from hypereyes_jax.env.actions import IMAGE_SEARCH, TEXT_SEARCH
from hypereyes_jax.env.search.config import StoreMode
from hypereyes_jax.env.search.metrics import SearchMetrics
from hypereyes_jax.env.search.store import StoredSearch, image_query, normal_query, search_key
from hypereyes_jax.env.search.stores import Store
from hypereyes_jax.env.types import Account, FatalSearchError, SearchBackend, SearchHit
from hypereyes_jax.env.web.per_loop import PerLoop

T = TypeVar("T")
Hits = tuple[SearchHit, ...]
_WAITS = (0.05, 0.5)  # seconds between looks for what another process searches: the first, and the longest


class RecordedBackend:
    """`inner` behind a store. In every mode identical searches in flight are sent once: of this process, and of all
    that share a store in PostgreSQL.

    A result is on disk before it is returned, so what the policy has seen can always be replayed; failures are not
    stored. The key of a search is the engine (the service and its settings), the tool, the normalised query or the
    image's pixels, and k.

    A training run that goes on from a checkpoint needs no position in the store: what it finds there depends on the
    search alone, not on what was asked before. Mode record asks again for the searches of the steps that it repeats.

    Args:
      inner: the backend to ask; None is allowed in replay-strict mode.
      store: where results are kept; None is allowed in live mode.
      engine: name of the service and its settings in the keys; default `inner.engine`.
      prices: (text, image) dollars a search, noted with what is recorded.
    """

    def __init__(
        self,
        inner: SearchBackend | None,
        store: Store | None,
        mode: StoreMode = StoreMode.REPLAY_THEN_LIVE,
        *,
        engine: str | None = None,
        prices: tuple[float, float] = (0.0, 0.0),
        metrics: SearchMetrics | None = None,
    ):
        if inner is None and mode is not StoreMode.REPLAY:
            raise ValueError(f"mode {mode} needs a backend to ask")
        if store is None and mode is not StoreMode.LIVE:
            raise ValueError(f"mode {mode} needs a store")
        name = engine if engine is not None else getattr(inner, "engine", None)
        if not name:
            raise ValueError("engine must name the search service: the backend does not")
        self.inner, self.store, self.mode, self.engine = inner, store, mode, str(name)
        self.metrics = metrics or SearchMetrics()
        self.run = uuid.uuid4().hex
        self._prices = {TEXT_SEARCH: prices[0], IMAGE_SEARCH: prices[1]}
        self._flights: PerLoop[dict[bytes, _Flight]] = PerLoop(dict)
        # Writes queue here instead of blocking the event loop on another process's transaction.
        self._threads = ThreadPoolExecutor(store.connections if store else 1, thread_name_prefix="search-store")

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        inner = self.inner
        ask = None if inner is None else lambda: inner.text_search(query, k)
        return await self._search(TEXT_SEARCH, normal_query(query), k, ask)

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        inner = self.inner
        ask = None if inner is None else lambda: inner.image_search(image, k)
        return await self._search(IMAGE_SEARCH, image_query(image), k, ask)

    def settle(self, spent: float) -> None:
        """Tells the inner backend's budget what all processes of the run have spent until now, in dollars."""
        budget = getattr(self.inner, "budget", None)
        if budget is not None:
            budget.settle(spent)

    async def charge(self, dollars: float) -> str:
        """Pays for what a tool beside the searches takes. Returns the payment's name, for `refund`.

        Raises FatalSearchError where the backend that is asked keeps a cap which this would exceed.
        """
        if isinstance(self.inner, Account):
            return await self.inner.charge(dollars)
        self.metrics.cost += dollars
        return ""

    async def refund(self, payment: str, dollars: float) -> None:
        """Takes back what was paid for something that was not charged."""
        if isinstance(self.inner, Account):
            await self.inner.refund(payment, dollars)
        else:
            self.metrics.cost -= dollars

    async def aclose(self) -> None:
        """Writes the run's summary into the store and closes the inner backend; the store stays open."""
        close = getattr(self.inner, "aclose", None)
        if close is not None:
            await close()
        self._threads.shutdown()
        if self.store is not None and self.mode is not StoreMode.LIVE:
            self.store.end_run(self.run, self.mode, self.metrics.summary())

    async def _search(
        self, tool: str, query: str, k: int, ask: Callable[[], Awaitable[list[SearchHit]]] | None
    ) -> list[SearchHit]:
        key = search_key(self.engine, tool, query, k)
        if self.store is not None and not self.store.remote:
            hits = self._replayed(self.store.get(key) if self._replays else None, tool, query, k)
            if hits is not None:
                return list(hits)

        flights = self._flights.get()
        flight = flights.get(key)
        if flight is None:
            flight = flights[key] = _Flight(asyncio.ensure_future(self._find(key, tool, query, k, ask)))
        else:
            self.metrics.shared += 1
        flight.waiting += 1
        try:
            return list(await asyncio.shield(flight.task))
        finally:
            flight.waiting -= 1
            if not flight.waiting and flights.get(key) is flight:
                del flights[key]
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()

    @property
    def _replays(self) -> bool:
        return self.mode in (StoreMode.REPLAY, StoreMode.REPLAY_THEN_LIVE)

    def _replayed(self, search: StoredSearch | None, tool: str, query: str, k: int) -> Hits | None:
        """What the store answers; None if the service is to be asked, which a strict replay forbids."""
        if search is not None:
            self.metrics.cache_hits += 1
            return search.hits
        if self.mode is StoreMode.REPLAY:
            message = f"{tool} for {query[:80]!r} (k={k}, engine {self.engine}) was not recorded"
            raise FatalSearchError(message, kind="not_recorded")
        return None

    async def _find(
        self, key: bytes, tool: str, query: str, k: int, ask: Callable[[], Awaitable[list[SearchHit]]] | None
    ) -> Hits:
        """The answer of the service, or of a store on another machine, where others may be asking the same."""
        store = self.store
        if store is None or not store.remote or self.mode is StoreMode.LIVE:
            return await self._ask(tool, query, k, ask)
        before = await self._in_thread(lambda: store.get(key))
        hits = self._replayed(before if self._replays else None, tool, query, k)
        if hits is not None:
            return hits
        token, wait = uuid.uuid4().hex, _WAITS[0]
        claiming: asyncio.Future[bool] | None = None
        try:
            while True:
                claiming = self._in_thread(lambda: store.claim(key, token))
                claim = await asyncio.shield(claiming)
                after = await self._in_thread(lambda: store.get(key))
                if after is not None and after != before:
                    self.metrics.shared += 1
                    return after.hits
                if claim:
                    return await self._ask(tool, query, k, ask)
                await asyncio.sleep(wait)
                wait = min(1.5 * wait, _WAITS[1])
        finally:
            # A thread goes on when its caller is cancelled: it is never released before it is claimed.
            if claiming is not None:
                claiming.add_done_callback(lambda _: self._release(store, token))

    def _release(self, store: Store, token: str) -> None:
        with contextlib.suppress(RuntimeError):  # the backend is closed: the claim ends by itself
            self._threads.submit(store.release, token)

    def _in_thread(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _ask(self, tool: str, query: str, k: int, ask: Callable[[], Awaitable[list[SearchHit]]] | None) -> Hits:
        if ask is None:
            raise ValueError(f"mode {self.mode} needs a backend to ask")
        start = time.perf_counter()
        hits = tuple(await ask())
        if self.store is None or self.mode is StoreMode.LIVE:
            return hits
        search = StoredSearch(
            engine=self.engine,
            tool=tool,
            query=query,
            k=k,
            hits=hits,
            cost=self._prices[tool],
            seconds=time.perf_counter() - start,
            created=time.time(),
            run=self.run,
        )
        store, replace = self.store, self.mode is StoreMode.RECORD
        return (await self._in_thread(lambda: store.put(search, replace=replace))).hits


@dataclass
class _Flight:
    """A search under way and how many callers wait for it; it is cancelled with the last of them."""

    task: asyncio.Future[Hits]
    waiting: int = 0
