"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Makes the process as small as what it holds.

    glibc keeps what its threads have freed for each of them, and the next stage's large arrays do not fit those holes:
    the quickstart, whose stages need 3 GiB each, grew to 7.3 GiB. Does nothing where there is no glibc.
    """
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library
            return
