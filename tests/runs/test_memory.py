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
def test_large_blocks_are_used_again_without_asking_the_kernel(kept):
    program = (
        "import resource, numpy as np\n"
        "from hypereyes_jax.runs.memory import keep_freed\n"
        f"{'keep_freed()' if kept else ''}\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "np.ones(2**24)\n"  # 128 MiB
        "before = faults()\n"
        "for _ in range(5): np.ones(2**24)\n"
        "print(faults() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (int(done.stdout) < 50) is kept  # 64 huge pages each time, or 32,768 small ones


@pytest.mark.parametrize(
    ("limit", "used", "gib"),
    [("max", "1", 16.0), ("12884901888", "4294967296", 8.0), ("4294967296", "5368709120", 0.0), (None, None, 16.0)],
)
def test_what_is_free_is_within_the_limit_of_the_container(monkeypatch, tmp_path, limit, used, gib):
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {16 * 2**20} kB\n")
    for name, text in {"max": limit, "current": used}.items():
        if text is not None:
            (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP_FILES", ((str(tmp_path / "max"), str(tmp_path / "current")),))
    assert memory.host_free_gib() == gib


def test_where_nothing_tells_what_is_free_a_little_is_assumed(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUP_FILES", ())
    assert memory.host_free_gib() == 4.0
