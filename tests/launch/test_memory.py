"""Freed memory goes back to the system."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hypereyes_jax.launch.memory import give_back


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
