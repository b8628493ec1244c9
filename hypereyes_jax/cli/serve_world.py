"""Serve the miniature world over HTTP: retriever protocol, SerpApi shapes, and faults to order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class ServeWorldConfig:
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """0 takes any free one."""
    latency: float = 0.0
    """Seconds before each reply."""
    latency_jitter: float = 0.0
    """Seconds; a uniform addition of 0 to this."""
    faults: dict[str, float] = field(default_factory=dict)
    """Faults and their shares of requests, as in `--faults error_500 0.05 hang 0.01`. A wrong name lists them all."""
    seed: int = 0
    """Of the faults."""
    api_key: str = ""
    """If set, SerpApi requests must carry it."""


def run(config: ServeWorldConfig) -> None:
    from hypereyes_jax.env.search.faults import FaultPlan
    from hypereyes_jax.env.search.serve import RunningServer, ServeConfig, serve
    from hypereyes_jax.env.world import World, WorldBackend

    try:
        plan = FaultPlan(config.faults, config.latency, config.latency_jitter, seed=config.seed)
    except ValueError as error:
        raise UserError(f"--faults: {error}.") from error
    settings = ServeConfig(host=config.host, port=config.port, faults=plan, api_key=config.api_key)

    def ready(server: RunningServer) -> None:
        print(f"serving the miniature world at {server.url} (Ctrl-C ends)", flush=True)

    world = World.load()
    world.prepare()
    try:
        asyncio.run(serve(WorldBackend(world), settings, ready))
    except KeyboardInterrupt:  # the usual way to end a server
        print("\nended")
