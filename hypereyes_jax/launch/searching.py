"""Where the commands' searches go: a real HTTP server of the world on loopback, or the world in process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hypereyes_jax.env.resilience import ResilientBackend
    from hypereyes_jax.env.world import World

Transport = Literal["http", "in-process"]


@contextlib.asynccontextmanager
async def searching(world: World, transport: Transport, latency: float) -> AsyncIterator[ResilientBackend]:
    """A backend for the time of the block: 64 searches in flight, retries, and metrics of what became of them.

    Args:
      latency: seconds that a search takes; real ones take 0.2 to 2.
    """
    from hypereyes_jax.env.backends.world_http import HttpWorldBackend
    from hypereyes_jax.env.faults import FaultPlan
    from hypereyes_jax.env.resilience import ResilientBackend
    from hypereyes_jax.env.serve import ServeConfig, serving_in_thread
    from hypereyes_jax.env.world import WorldBackend

    if transport == "in-process":
        yield ResilientBackend(WorldBackend(world, latency=latency))
        return
    with serving_in_thread(WorldBackend(world), ServeConfig(faults=FaultPlan(latency=latency))) as server:
        backend = ResilientBackend(HttpWorldBackend(server.url))
        try:
            yield backend
        finally:
            await backend.aclose()
