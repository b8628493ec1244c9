"""What it costs a rollout engine to tell the processes that share its replica what to compute, on loopback.

The driver's `decode` calls (and an image's encoding) go to workers in processes of their own, whose devices are
stand-ins that only note the time: what is measured is the announcement, not the work. "driver" is the time that it
holds the driver up, "arrived" that until the last worker would begin. Medians. The last line is JSON.

    python benchmarks/replica_group.py
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import time
from multiprocessing.connection import Connection

import numpy as np
from machine_speed import Machine

from hypereyes_jax.launch.replica_group.calls import GroupDriver, GroupWorker, Peer
from hypereyes_jax.processing.types import VisionInputs
from hypereyes_jax.rollout.programs.decode import PackedDecodeRows

_PATCHES, _VALUES = 4_800, 1_536  # the largest image of the paper's recipes


class Clock:
    """Stands in for a device: notes when each call is made."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def decode(self, *_: object) -> None:
        self.times.append(time.perf_counter())

    encode = decode


def gone(why: str) -> None:
    raise RuntimeError(why)


def worker(number: int, port: int, results: Connection) -> None:
    clock = Clock()
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(bytes([number]))
    end = GroupWorker(Peer(0, connection), gone)
    end.serve(clock)  # type: ignore[arg-type]
    results.send(clock.times)
    end.close()


def measure(workers: int, slots: int, calls: int) -> dict[str, float]:
    """Microseconds: medians over `calls`."""
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(workers)]
    peers = []
    with socket.create_server(("127.0.0.1", 0), backlog=workers) as listening:
        port = listening.getsockname()[1]
        processes = [spawn.Process(target=worker, args=(n, port, pipes[n][1])) for n in range(workers)]
        for process in processes:
            process.start()
        for _ in range(workers):
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peers.append(Peer(connection.recv(1)[0], connection))
    driver = GroupDriver(peers, gone)
    here = Clock()
    device = driver.shared_calls(here)  # type: ignore[arg-type]
    batch = PackedDecodeRows.padding(slots, 16, pages=38_912 // 64)
    image = VisionInputs(
        np.zeros((_PATCHES, _VALUES), np.float32),
        np.zeros((_PATCHES, 4), np.int32), np.zeros((_PATCHES, 4), np.float32),
        np.zeros(_PATCHES, np.int32), np.zeros(_PATCHES, np.int32),
        np.zeros((1, _PATCHES), np.int32), np.zeros(_PATCHES // 4, np.int32),
    )  # fmt: skip
    began = []
    for _ in range(calls):
        began.append(time.perf_counter())
        device.decode(batch, 1024)
        time.sleep(0.002)  # a device would be at work
    for _ in range(max(3, calls // 100)):
        began.append(time.perf_counter())
        device.encode(image, np.zeros(_PATCHES // 4, np.int32))
        time.sleep(0.5)
    driver.release()
    arrived = np.max([pipes[n][0].recv() for n in range(workers)], axis=0)
    driver.close()
    for process in processes:
        process.join()
    held = 1e6 * (np.array(here.times) - began)
    until = 1e6 * (arrived - began)
    return {
        "decode_driver_us": float(np.median(held[:calls])),
        "decode_arrived_us": float(np.median(until[:calls])),
        "image_driver_us": float(np.median(held[calls:])),
        "image_arrived_us": float(np.median(until[calls:])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 3, 15])
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    machine = Machine()
    found: dict[str, dict[str, float]] = {}
    for workers in options.workers:
        found[str(workers)] = measured = measure(workers, options.slots, options.calls)
        driver, arrived = measured["decode_driver_us"], measured["decode_arrived_us"]
        print(
            f"{workers:3d} workers: a decode call of {options.slots} slots holds the driver up for {driver:.0f} "
            f"us, and reaches the last after {arrived:.0f} us; an image of {_PATCHES} patches "
            f"{measured['image_driver_us'] / 1000:.1f} ms, {measured['image_arrived_us'] / 1000:.1f} ms"
        )
    print(json.dumps(found | {"machine": machine.figures()}))


if __name__ == "__main__":
    main()
