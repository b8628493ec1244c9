"""Serve the miniature world over HTTP: retriever protocol, SerpApi shapes, and faults to order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class ServeWorldConfig:
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes any free one."""
    latency: float = 0.0
    """Seconds before each reply."""
    latency_jitter: float = 0.0
    """Upper bound in seconds of a uniformly drawn addition to the latency."""
    faults: dict[str, float] = field(default_factory=dict)
    """Faults and their shares of requests, as in `--faults error_500 0.05 hang 0.01`. A wrong name lists them all."""
    seed: int = 0
    """Seed of the faults."""
    api_key: str = ""
    """Key that every request must then carry: as a bearer token, X-API-Key, a password in the URL, or api_key."""


def run(config: ServeWorldConfig) -> None:
    from hypereyes_jax.env.search.faults import FaultPlan
    from hypereyes_jax.env.search.serve import RunningServer, SearchServerConfig, serve
    from hypereyes_jax.env.web.signals import ends_by_signal, run_until_signal
    from hypereyes_jax.env.world import World, WorldBackend

    try:
        plan = FaultPlan(config.faults, config.latency, config.latency_jitter, seed=config.seed)
    except ValueError as error:
        raise UserError(f"--faults: {error}.") from error
    settings = SearchServerConfig(host=config.host, port=config.port, faults=plan, api_key=config.api_key)

    def ready(server: RunningServer) -> None:
        print(f"serving the miniature world at {server.url} (Ctrl-C ends)", flush=True)

    with ends_by_signal() as came:
        world = World.load()
        world.prepare()
        run_until_signal(serve(WorldBackend(world), settings, ready), came)
    print("\nended")
