"""The paper from nothing to its table 2, as ten commands.

    hypereyes reproduce               # the commands, and what each needs: keys, disk, device hours, dollars of search
    hypereyes reproduce --small       # tries all ten at a small size on this machine, offline

With `--small`, a command that is killed at any moment goes on when it is given again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

_WRITES = (
    "services.json", "inputs", "photos", "wikidata", "curation", "teacher*", "student*", "table2",
)  # fmt: skip


@dataclass(frozen=True)
class ReproduceConfig:
    small: bool = False
    """Run the ten commands on small inputs that are made here, with services on loopback and the miniature's model."""
    out: Path = Path("runs/reproduce")
    """Directory of --small. The same command again continues."""
    search_price: float = 0.015
    """Dollars that one search costs; SerpApi's plan of 5,000 searches a month costs 75."""
    minutes: float | None = None
    """Number of minutes after which --small begins no further command; without one, it runs them all."""


@dataclass(frozen=True)
class _Ports:
    """Ports of the services on loopback; 0 = any free one."""

    models: int = 0
    search: int = 0


def run(config: ReproduceConfig) -> int:
    if not config.small:
        _tell(config.search_price)
        return 0
    from hypereyes_jax.env.search.serve import SearchServerConfig, serving_in_thread
    from hypereyes_jax.env.world import World, WorldBackend
    from hypereyes_jax.files import read_file, write_json
    from hypereyes_jax.reproduce.commands import small_steps
    from hypereyes_jax.reproduce.offline_services import offline_services
    from hypereyes_jax.reproduce.small_inputs import write_inputs
    from hypereyes_jax.runs.run_directory import RunDirectory
    from hypereyes_jax.study.execution import execute

    may_differ = frozenset({"out", "search_price", "minutes"})
    directory = RunDirectory.open(config.out, "reproduce", config, may_differ=may_differ, writes=_WRITES)
    ports_file = config.out / "services.json"  # a command that goes on must find its services where they were
    ports = _read_ports(ports_file)
    world = World.load()
    world.prepare()
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory)
        models = stack.enter_context(offline_services(ports.models))
        server = stack.enter_context(serving_in_thread(WorldBackend(world), SearchServerConfig(port=ports.search)))
        write_json(ports_file, {"models": _port(models), "search": _port(server.url)})
        write_inputs(config.out / "inputs", models)
        steps = small_steps(config.out, models, server.url)
        complete = execute(steps, config.out / "logs", lambda text: print(text, flush=True), config.minutes)
    if not complete:
        print("the same command continues")
        return 0
    print(read_file(config.out / "table2" / "benchmarks.csv").decode(errors="replace"))
    print(f"all ten commands ran; the table beside the paper's rows: {config.out / 'table2' / 'benchmarks.html'}")
    return 0


def _read_ports(path: Path) -> _Ports:
    """Where an earlier call had its services. Raises UserError for a file that says something else."""
    import os

    from hypereyes_jax.errors import UserError
    from hypereyes_jax.files import read_json
    from hypereyes_jax.runs.typed_json import ShapeError, from_json

    if not os.path.lexists(path):
        return _Ports()
    try:
        ports = from_json(_Ports, read_json(path))
        if not (0 <= ports.models < 65536 and 0 <= ports.search < 65536):
            raise ShapeError("a port is a number from 0 to 65535")
    except ShapeError as error:
        raise UserError(f"{path} is damaged ({error}). Remove it, and run the same command again.") from None
    return ports


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
