"""The paper from nothing to its table 2, as ten commands.

    hypereyes reproduce               # the commands, and what each needs: keys, disk, device hours, dollars of search
    hypereyes reproduce --small       # tries all ten at a small size on this machine, offline

With `--small`, a command that is killed at any moment goes on when it is given again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReproduceConfig:
    small: bool = False
    """Run the ten commands on small inputs that are made here, with services on loopback and the miniature's model."""
    out: Path = Path("runs/reproduce")
    """Directory of --small. The same command again continues."""
    search_price: float = 0.015
    """Dollars that one search costs; SerpApi's plan of 5,000 searches a month costs 75."""
    minutes: float = float("inf")
    """Number of minutes after which --small begins no further command."""


def run(config: ReproduceConfig) -> int:
    if not config.small:
        _tell(config.search_price)
        return 0
    from hypereyes_jax.env.search.serve import SearchServerConfig, serving_in_thread
    from hypereyes_jax.env.world import World, WorldBackend
    from hypereyes_jax.files import read_json_object, write_json
    from hypereyes_jax.reproduce.commands import small_steps
    from hypereyes_jax.reproduce.offline_services import offline_services
    from hypereyes_jax.reproduce.small_inputs import write_inputs
    from hypereyes_jax.study.execution import execute

    config.out.mkdir(parents=True, exist_ok=True)
    ports_file = config.out / "services.json"  # a command that goes on must find its services where they were
    ports = read_json_object(ports_file) if ports_file.exists() else {"models": 0, "search": 0}
    world = World.load()
    world.prepare()
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(offline_services(int(ports["models"])))
        server = stack.enter_context(
            serving_in_thread(WorldBackend(world), SearchServerConfig(port=int(ports["search"])))
        )
        write_json(ports_file, {"models": _port(models), "search": _port(server.url)})
        write_inputs(config.out / "inputs", models)
        steps = small_steps(config.out, models, server.url)
        complete = execute(steps, config.out / "logs", lambda text: print(text, flush=True), config.minutes)
    if not complete:
        print("the same command goes on")
        return 0
    print((config.out / "table2" / "benchmarks.csv").read_text(encoding="utf-8"))
    print(f"all ten commands ran; the table beside the paper's rows: {config.out / 'table2' / 'benchmarks.html'}")
    return 0


def _port(url: str) -> int:
    from urllib.parse import urlsplit

    return urlsplit(url).port or 0


def _tell(price: float) -> None:
    from hypereyes_jax.reproduce.commands import PAPER_STEPS
    from hypereyes_jax.study.execution import shell_line

    for number, step in enumerate(PAPER_STEPS, start=1):
        print(f"{number}. {step.title}\n   {shell_line(step.words)}")
        print(f"   keys: {step.keys}; disk: {step.disk}; device hours: {step.device_hours}")
        print(f"   searches: {step.searches:,} ({step.counted}): ${step.dollars(price):,.0f}\n")
    total = sum(step.dollars(price) for step in PAPER_STEPS)
    print(
        f"${total:,.0f} of searches in all at ${price:g} each. `hypereyes plan RECIPE --mesh NAME` counts device hours."
    )
