"""Where the commands' searches go: a real HTTP server of the world on loopback, this process, or a recording."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from hypereyes_jax.env.search.backends.world_http import HttpWorldBackend
from hypereyes_jax.env.search.config import StoreMode, Transport, WorldSearch
from hypereyes_jax.env.search.faults import FaultPlan
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.serve import ServeConfig, serving_in_thread
from hypereyes_jax.env.search.stores import Store, is_postgres, open_store
from hypereyes_jax.env.types import SearchBackend
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.errors import UserError


@contextlib.asynccontextmanager
async def searching(world: World, search: WorldSearch) -> AsyncIterator[RecordedBackend]:
    """A backend for the time of the block: 64 searches in flight, retries, and metrics of what became of them.

    Identical searches in flight are sent once. In mode replay-strict nothing is served and nothing is asked: every
    result comes from the store.

    Raises:
      UserError: a strict replay of no store, or of one that is not there.
    """
    async with contextlib.AsyncExitStack() as stack:
        engine, mode = engine_name(world, search.transport), search.mode
        opened = _open(search.store, mode)
        if opened is None:
            mode = StoreMode.LIVE
        else:
            stack.callback(opened.close)
        if mode is StoreMode.REPLAY:
            backend = RecordedBackend(None, opened, mode, engine=engine)
        else:
            service = ResilientBackend(stack.enter_context(_service(world, search)))
            backend = RecordedBackend(service, opened, mode, engine=engine, metrics=service.metrics)
        try:
            yield backend
        finally:
            await backend.aclose()


def engine_name(world: World, transport: Transport) -> str:
    """Names the service in a store: worlds that answer differently, and images sent with and without loss, differ."""
    pages = [[country.key, country.names, sorted(country.facts.items()), country.flag] for country in world.countries]
    pages += [[passage.key, passage.section, passage.text] for passage in world.passages]
    return f"world:{hashlib.sha256(repr(pages).encode()).hexdigest()[:12]}:{transport}"


def _open(store: str | Path | None, mode: StoreMode) -> Store | None:
    if mode is StoreMode.REPLAY and (store is None or not (is_postgres(store) or Path(store).is_file())):
        missing = "name it" if store is None else f"there is no {store}"
        raise UserError(f"a strict replay needs the store of a recorded run: {missing}.")
    return None if store is None or mode is StoreMode.LIVE else open_store(store)


@contextlib.contextmanager
def _service(world: World, search: WorldSearch) -> Iterator[SearchBackend]:
    world.prepare()
    if search.transport == "in-process":
        yield WorldBackend(world, latency=search.latency)
        return
    with serving_in_thread(WorldBackend(world), ServeConfig(faults=FaultPlan(latency=search.latency))) as server:
        yield HttpWorldBackend(server.url)
