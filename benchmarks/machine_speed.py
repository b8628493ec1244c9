"""What a figure was measured on: how fast this machine is at that time, and what else kept it busy meanwhile.

    python benchmarks/machine_speed.py

Every script here that takes times has `machine` in its last line, with

    matmul_gflops          float32 matmul of 1,024 x 1,024, all cores (numpy)
    copy_gib_per_second    copying 256 MiB, bytes read and written counted
    cores                  that this process may use
    others_cores           cores that other processes used while the script ran, on average; only where /proc tells it

Two runs whose lines differ here are not compared: a busy hour, or a slower machine, shows in all four.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

_STAT = Path("/proc/stat")
_SIDE, _BYTES, _REPEATS = 1024, 2**28, 5


class Machine:
    """Measures the time from when it is made until `figures`."""

    def __init__(self) -> None:
        self._began, self._own = time.perf_counter(), _own_seconds()
        self._busy = _busy_seconds()

    def figures(self) -> dict[str, float]:
        """As the module says; takes about a second."""
        wall, own, busy = time.perf_counter() - self._began, _own_seconds() - self._own, _busy_seconds()
        out = machine_speed()
        if self._busy is not None and busy is not None:
            out["others_cores"] = round(max(0.0, busy - self._busy - own) / max(wall, 1e-9), 2)
        return out


def machine_speed() -> dict[str, float]:
    """The best of a few tries of a matmul and of a copy, and the number of cores."""
    side = np.random.default_rng(0).standard_normal((_SIDE, _SIDE), dtype=np.float32)
    source = np.zeros(_BYTES, np.uint8)
    target = np.ones(_BYTES, np.uint8)  # touched: its pages exist

    def best(work) -> float:
        seconds = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    matmul = best(lambda: side @ side)
    copy = best(lambda: np.copyto(target, source))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "matmul_gflops": round(2 * _SIDE**3 / matmul / 1e9, 1),
        "copy_gib_per_second": round(2 * _BYTES / copy / 2**30, 1),
        "cores": cores,
    }


def _own_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float | None:
    """CPU time of all processes since the machine started; None where it is not told."""
    if not _STAT.exists():
        return None
    user, nice, system, _, _, irq, soft_irq, *_ = map(int, _STAT.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    print(json.dumps(machine_speed()))
