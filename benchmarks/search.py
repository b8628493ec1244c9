"""The search client against serve-world on loopback: concurrency, overhead, store, faults, a kill while recording.

    python benchmarks/search.py            # about four minutes on 2 cores
    python benchmarks/search.py --quick    # a tenth of the searches

The server is the miniature world in a process of its own. The last line is JSON:
  in_flight            mean searches in flight while 2,048 searches of 0.5 s each run, 64 being allowed
  overhead_ms_p50      median time of a text search through the whole client (store off, policy, HTTP) minus that of a
                       bare aiohttp POST to the same endpoint, taking turns
  search_cpu_ms        processor time of this process for such a search, HTTP included: the overhead's upper bound
                       that a busy machine does not blur
  warm_searches_per_s  searches answered by a warm store, half of them by crop; warm_text_... and warm_image_... alone
  faults_*             20,000 searches with 10 % mixed faults: how each ended (they must add up), what was left behind
  kill_*               results acknowledged before a kill -9 and missing from the store (must be 0), over several kills
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from machine_speed import Machine
from PIL import Image

from hypereyes_jax.env import SearchError, SearchHit
from hypereyes_jax.env.search.backends import HttpWorldBackend
from hypereyes_jax.env.search.config import CallPolicy, StoreMode
from hypereyes_jax.env.search.faults import FaultPlan
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.serve import SearchServerConfig, serve
from hypereyes_jax.env.search.store import SearchStore
from hypereyes_jax.env.world import World, WorldBackend

# One per cent each of ten faults. A hung or dripping reply ends by the client's timeout.
FAULTS = (
    "error_500",
    "error_503",
    "throttled_429",
    "bad_request_400",
    "truncated_json",
    "malformed_json",
    "wrong_shape",
    "cut_connection",
    "hang",
    "drip",
)


def serve_world(faults: FaultPlan, ready: Connection) -> None:
    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serve(backend, SearchServerConfig(faults=faults), lambda server: ready.send(server.url))

    backend = WorldBackend(World.load())
    asyncio.run(run())


@contextlib.contextmanager
def world_server(faults: FaultPlan | None = None) -> Iterator[str]:
    """serve-world in another process; yields its URL."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve_world, args=(faults or FaultPlan(), there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join()


@contextlib.asynccontextmanager
async def client(url: str, policy: CallPolicy | None = None) -> AsyncIterator[ResilientBackend]:
    backend = ResilientBackend(HttpWorldBackend(url), policy)
    yield backend
    await backend.aclose()


class Timed:
    """Adds up the time that searches spend in flight."""

    def __init__(self, inner: HttpWorldBackend):
        self.inner, self.seconds = inner, 0.0

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        started = time.perf_counter()
        hits = await self.inner.text_search(query, k)
        self.seconds += time.perf_counter() - started
        return hits

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        return await self.inner.image_search(image, k)


async def measure_in_flight(url: str, searches: int) -> dict[str, Any]:
    http = HttpWorldBackend(url)
    timed = Timed(http)
    backend = ResilientBackend(timed)
    started = time.perf_counter()
    await asyncio.gather(*(backend.text_search(f"capital of country {i}", 3) for i in range(searches)))
    wall = time.perf_counter() - started
    await http.aclose()
    return {"in_flight": round(timed.seconds / wall, 1), "in_flight_searches_per_s": round(searches / wall, 1)}


async def measure_overhead(url: str, searches: int) -> dict[str, Any]:
    bare_times, full_times, cpu = [], [], 0.0
    body = {"queries": ["population of Chad"], "topk": 10, "return_scores": True}
    async with client(url) as inner, aiohttp.ClientSession() as session:
        backend = RecordedBackend(inner, None, StoreMode.LIVE)
        for _ in range(searches):
            started = time.perf_counter()
            async with session.post(f"{url}/retrieve", json=body) as response:
                await response.json()
            middle, cpu_before = time.perf_counter(), time.process_time()
            await backend.text_search("population of Chad", 10)
            bare_times.append(middle - started)
            full_times.append(time.perf_counter() - middle)
            cpu += time.process_time() - cpu_before
    bare, full = statistics.median(bare_times), statistics.median(full_times)
    return {
        "overhead_ms_p50": round(1e3 * (full - bare), 3),
        "search_cpu_ms": round(1e3 * cpu / searches, 3),
        "search_ms_p50": round(1e3 * full, 3),
        "bare_post_ms_p50": round(1e3 * bare, 3),
    }


class Canned:
    """Fills a store without a server."""

    engine = "canned"

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        return [SearchHit(f"Title {i}", "word " * 60, 0.9, "https://example.org") for i in range(3)]

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        return await self.text_search("", k)


async def measure_store(directory: Path, searches: int) -> dict[str, Any]:
    store = SearchStore(directory / "warm.sqlite")
    backend = RecordedBackend(Canned(), store)
    queries = [f"query {i}" for i in range(1000)]
    crops = [Image.effect_noise((160, 120), 50 + i % 50).convert("RGB") for i in range(200)]
    await asyncio.gather(*(backend.text_search(query, 3) for query in queries))
    await asyncio.gather(*(backend.image_search(crop, 3) for crop in crops))
    strict = RecordedBackend(None, store, StoreMode.REPLAY, engine="canned")
    rates = {}
    for name, share in (
        ("warm_text_searches_per_s", 0.0),
        ("warm_image_searches_per_s", 1.0),
        ("warm_searches_per_s", 0.5),
    ):
        calls = [
            strict.image_search(crops[i % len(crops)], 3)
            if i % 100 < 100 * share
            else strict.text_search(queries[i % 1000], 3)
            for i in range(searches)
        ]
        started = time.perf_counter()
        await asyncio.gather(*calls)
        rates[name] = round(searches / (time.perf_counter() - started))
    store.close()
    return rates


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure_faults(url: str, searches: int) -> dict[str, Any]:
    # The circuit must stay closed here: every search is to reach the server.
    policy = CallPolicy(timeout=1.0, attempts=3, backoff=(0.01, 0.05), breaker_failures=10**9)
    files, tasks = open_files(), len(asyncio.all_tasks())
    ended: Counter[str] = Counter()
    crops = [Image.effect_noise((64, 48), 50).convert("RGB") for _ in range(20)]
    queue = iter(range(searches))
    memory: list[float] = []

    async with client(url, policy) as backend:

        async def worker() -> None:
            for i in queue:
                if i in (searches // 2, searches - 1):
                    memory.append(resident_mib())
                try:
                    if i % 10 == 0:
                        hits = await backend.image_search(crops[i % 20], 3)
                    else:
                        hits = await backend.text_search(f"capital of country {i}" if i % 5 else "qqqq", 3)
                    ended["result" if hits else "empty"] += 1
                except SearchError as error:
                    ended[error.kind] += 1

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(64)))
        wall = time.perf_counter() - started
        summary = backend.metrics.summary()
    await asyncio.sleep(0.3)
    return {
        "faults_searches": searches,
        "faults_accounted": sum(ended.values()),
        "faults_metrics_agree": summary["sent"] == searches
        and summary["failures"] == {k: v for k, v in sorted(ended.items()) if k not in ("result", "empty")},
        "faults_ended": dict(sorted(ended.items())),
        "faults_attempts": summary["attempts"],
        "faults_seconds": round(wall, 1),
        "faults_left_tasks": len(asyncio.all_tasks()) - tasks,
        "faults_left_files": open_files() - files,
        "faults_memory_growth_mib": round(memory[-1] - memory[0], 1),
    }


RECORDER = """
import asyncio, itertools, sys
from hypereyes_jax.env.search.backends import HttpWorldBackend
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.store import SearchStore

async def main(url, path, name):
    backend = RecordedBackend(ResilientBackend(HttpWorldBackend(url)), SearchStore(path))
    numbers = itertools.count()
    async def worker():
        for i in numbers:
            await backend.text_search(f"{name} {i}", 3)
            print(i, flush=True)
    await asyncio.gather(*(worker() for _ in range(64)))

asyncio.run(main(*sys.argv[1:]))
"""


def measure_kills(url: str, directory: Path, kills: int) -> dict[str, Any]:
    path, lost, acknowledged_total, whole = directory / "killed.sqlite", 0, 0, True
    draw = random.Random(0)
    for number in range(kills):
        name = f"run {number}"
        process = subprocess.Popen(
            [sys.executable, "-c", RECORDER, url, str(path), name], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged = {process.stdout.readline().strip() for _ in range(draw.randrange(50, 400))}
        process.send_signal(signal.SIGKILL)
        # A number may be cut off by the kill; only whole lines were acknowledged.
        acknowledged |= {
            line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")
        }
        process.wait()
        store = SearchStore(path)
        whole = whole and store.rows("PRAGMA integrity_check") == [("ok",)]
        held = {row[0] for row in store.rows("SELECT query FROM searches")}
        store.close()
        lost += sum(f"{name} {i}" not in held for i in acknowledged)
        acknowledged_total += len(acknowledged)
    return {
        "kill_count": kills,
        "kill_acknowledged": acknowledged_total,
        "kill_lost_acknowledged": lost,
        "kill_store_whole": whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the searches")
    part = 10 if parser.parse_args().quick else 1
    machine = Machine()
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with world_server(FaultPlan(latency=0.5)) as url:
            numbers |= show(asyncio.run(measure_in_flight(url, 2048 // part)))
        with world_server() as url:
            numbers |= show(asyncio.run(measure_overhead(url, 1000 // part)))
            numbers |= show(measure_kills(url, directory, 5))
        numbers |= show(asyncio.run(measure_store(directory, 20_000 // part)))
        with world_server(FaultPlan(dict.fromkeys(FAULTS, 0.01))) as url:
            numbers |= show(asyncio.run(measure_faults(url, 20_000 // part)))
    print(json.dumps(numbers | {"machine": machine.figures()}))


def show(numbers: dict[str, Any]) -> dict[str, Any]:
    for name, value in numbers.items():
        print(f"{name:28} {value}", flush=True)
    return numbers


if __name__ == "__main__":
    main()
