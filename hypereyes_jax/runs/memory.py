"""This process's memory: the most it has held, and what is free given back to the system."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def host_peak_gib() -> float:
    """Most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def keep_freed() -> None:
    """Has glibc keep large freed blocks for the next allocation, until `give_back`.

    XLA takes its temporaries anew at each call. By default glibc maps and unmaps every large one, and the kernel clears
    its pages each time: a tenth of the time of decoding on two cores. Does nothing where there is no glibc.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL("libc.so.6").mallopt
        except (OSError, AttributeError):  # another C library
            return
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


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
