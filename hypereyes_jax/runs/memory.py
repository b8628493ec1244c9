"""A process's memory: the most it has held, what the host has left for it, and how what is free goes back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
# (limit, use) of a control group as its processes see it, of both versions
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def host_peak_gib() -> float:
    """Most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def host_free_gib() -> float:
    """Memory that this process can still take: what the system counts as available, within the limit of the control
    group it runs in (a container's, a Slurm job's). Where neither tells, 4 GiB."""
    free = []
    with contextlib.suppress(OSError, StopIteration):
        lines = _MEMINFO.read_text().splitlines()
        free.append(next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20)
    for limit, used in _CGROUP_FILES:
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
            free.append((int(Path(limit).read_text()) - int(Path(used).read_text())) / 2**30)
    return max(0.0, min(free, default=4.0))


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
