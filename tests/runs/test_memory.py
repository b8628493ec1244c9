"""Freed memory goes back to the system; what is free is what system and container leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hypereyes_jax.runs import memory
from hypereyes_jax.runs.memory import give_back


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_small_arrays_took_is_given_back():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    arrays = [np.ones(8000) for _ in range(4000)]  # below the size that malloc maps for itself: 256 MB of heap
    keep = arrays[-1]  # at the heap's end, so that freeing the others alone can't shrink it
    full = resident()
    del arrays
    give_back()
    assert full - resident() > 200e6
    assert keep[0] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize("kept", [True, False])
def test_large_blocks_of_any_thread_are_used_again_without_asking_the_kernel(kept):
    program = (
        "import resource, threading, numpy as np\n"
        "from hypereyes_jax.runs import memory\n"
        "memory._FEW_CORES = 10_000\n"
        f"{'memory.keep_freed()' if kept else ''}\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def work():\n"
        "    np.ones(2**24)\n"  # 128 MiB
        "    before = faults()\n"
        "    for _ in range(5): np.ones(2**24)\n"
        "    print(faults() - before)\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start(), thread.join()\n"
        "work()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    # 64 huge pages each time, or 32,768 small ones
    assert [int(count) < 50 for count in done.stdout.split()] == [kept, kept]


GIB = 2**30


@pytest.mark.parametrize(
    ("own", "files", "gib"),
    [
        ("0::/\n", {"memory.max": "max", "memory.current": 1}, 16.0),
        ("0::/\n", {"memory.max": 12 * GIB, "memory.current": 4 * GIB}, 8.0),
        ("0::/\n", {"memory.max": 4 * GIB, "memory.current": 5 * GIB}, 0.0),
        ("0::/job/step\n", {"job/memory.max": 7 * GIB, "job/memory.current": GIB, "job/step/memory.max": "max"}, 6.0),
        ("0::/job/step\n", {"other/memory.max": GIB, "other/memory.current": 0}, 16.0),
        (
            "9:cpu:/job\n4:memory:/job\n",
            {"memory/job/memory.limit_in_bytes": 3 * GIB, "memory/job/memory.usage_in_bytes": GIB},
            2.0,
        ),
        (
            "4:memory:/docker/of-the-host\n",  # a container sees its own group at the root
            {"memory/memory.limit_in_bytes": 5 * GIB, "memory/memory.usage_in_bytes": GIB},
            4.0,
        ),
        (None, {}, 16.0),
    ],
)
def test_what_is_free_is_within_the_limits_of_container_and_job(monkeypatch, tmp_path, own, files, gib):
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {16 * 2**20} kB\n")
    if own is not None:
        (tmp_path / "own").write_text(own)
    for name, value in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(f"{value}\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    assert memory.host_free_gib() == gib


def test_where_nothing_tells_what_is_free_a_little_is_assumed(monkeypatch, tmp_path):
    for name in ("_MEMINFO", "_OWN_GROUPS", "_GROUPS"):
        monkeypatch.setattr(memory, name, tmp_path / "none")
    assert memory.host_free_gib() == 4.0
