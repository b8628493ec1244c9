"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
