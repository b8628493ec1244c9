"""A process's memory: the most it has held, what the host has left for it, and how what is free goes back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# files of a control group's limit and use, in both versions of the hierarchy
_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of malloc.h
_FEW_CORES = 8  # whose threads hardly wait for the lock of one arena


def host_peak_gib() -> float:
    """Most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def host_free_gib() -> float:
    """Memory that this process can still take: what the system counts as available, within the limits of the control
    groups it runs in (a container's, a Slurm job's). Where neither tells, 4 GiB."""
    free = []
    with contextlib.suppress(OSError, StopIteration):
        lines = _MEMINFO.read_text().splitlines()
        free.append(next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20)
    for group in _control_groups():
        for limit, used in _LIMITS:
            with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
                free.append((int((group / limit).read_text()) - int((group / used).read_text())) / 2**30)
    return max(0.0, min(free, default=4.0))


def _control_groups() -> set[Path]:
    """Folders of the groups that limit this process's memory: its own, those around it, and the root."""
    groups = {_GROUPS, _GROUPS / "memory"}  # where a container has its own, whatever the system calls it
    with contextlib.suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers in ("", "memory"):
                root = _GROUPS / controllers
                own = root / place.lstrip("/")
                groups.update(each for each in (own, *own.parents) if each.is_relative_to(root))
    return groups


def keep_freed() -> None:
    """Has glibc keep large freed blocks for the next allocation, until `give_back`.

    XLA takes its temporaries anew at each call. By default glibc maps and unmaps every large one, and the kernel clears
    its pages each time: a tenth of the time of decoding on two cores, and 5 to 12 % of that of a training step. Call it
    before jax is imported: threads that have allocated by then stay as they are. Does nothing where there is no glibc.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL("libc.so.6").mallopt
        except (OSError, AttributeError):  # another C library
            return
        mallopt(_M_MMAP_MAX, 0)
        if len(os.sched_getaffinity(0)) <= _FEW_CORES:  # a thread's own arena maps each block of over 64 MiB
            mallopt(_M_ARENA_MAX, 1)
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
