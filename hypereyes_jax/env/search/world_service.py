"""The worlds of the package as search services: in this process, or over a real HTTP server on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from hypereyes_jax.env.search.backends.world_http import HttpWorldBackend
from hypereyes_jax.env.search.config import Transport
from hypereyes_jax.env.search.faults import FaultPlan
from hypereyes_jax.env.search.serve import SearchServerConfig, serving_in_thread
from hypereyes_jax.env.types import SearchBackend
from hypereyes_jax.env.world import WorldBackend
from hypereyes_jax.env.world.backend import Searchable


class OfflineWorld(Searchable, Protocol):
    """A world that comes with the package."""

    @property
    def digest(self) -> str: ...

    def prepare(self) -> None: ...


@contextlib.contextmanager
def world_service(world: OfflineWorld, transport: Transport, latency: float) -> Iterator[SearchBackend]:
    """Searches of a world for the time of the block. Each takes `latency` seconds longer than it would."""
    world.prepare()
    if transport == "in-process":
        yield WorldBackend(world, latency=latency)
        return
    with serving_in_thread(WorldBackend(world), SearchServerConfig(faults=FaultPlan(latency=latency))) as server:
        yield HttpWorldBackend(server.url)


def engine_name(world: OfflineWorld, transport: Transport) -> str:
    """Names the service in a store: worlds that answer differently, and images sent with and without loss, differ."""
    return f"{type(world).__name__.lower()}:{world.digest[:12]}:{transport}"
