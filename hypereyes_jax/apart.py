"""Runs a function on somebody else's input in a process of its own, with limits on its time and memory.

For what a library does in C or in a stranger's program: a loop without end, a memory that fills or a crash ends that
process then, and not the run.
"""

from __future__ import annotations

import json
import math
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_CLOCK_SECONDS = 600.0  # the start of the process included, on a machine that is very busy


class ApartError(Exception):
    """The function failed or met a limit; the message says which."""


def run_apart(file: str | Path, function: str, argument: Any, *, seconds: int, memory: int) -> Any:
    """What a function gives for an argument; both are JSON.

    Args:
      file: the Python file that holds the function. It runs as a script, without the package around it: it imports what
        it needs by absolute names.
      seconds: of computing, from the start of the function on. Its imports should be done by `prepare`, if the file has
        a function of that name.
      memory: bytes beyond those that it had at its start. macOS heeds the limit on time only.

    Raises:
      ApartError: the function failed or met a limit.
      ImportError: a package is missing.
    """
    command = [sys.executable, "-P", __file__, str(file), function, str(seconds), str(memory)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, input=json.dumps(argument).encode(), capture_output=True, timeout=_CLOCK_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise ApartError(f"it takes longer than {_CLOCK_SECONDS:g} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise ApartError(f"it needs more computing time than {seconds} s")
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        raise ApartError(f"it crashes the process that reads it (code {done.returncode})") from None
    if "missing" in reply:
        raise ImportError(reply["missing"])
    if "why" in reply:
        raise ApartError(reply["why"])
    return reply["value"]


def _limit(seconds: int, memory: int) -> None:
    """Bounds what this process may still use."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds += math.ceil(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        space = int(statm.read_text().split()[0]) * resource.getpagesize() + memory
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (space if most < 0 else min(space, most), most))


def _main(file: str, function: str, seconds: str, memory: str) -> None:
    argument = json.loads(sys.stdin.buffer.read())
    try:
        names = runpy.run_path(file)
        names.get("prepare", lambda: None)()
        _limit(int(seconds), int(memory))
        reply = json.dumps({"value": names[function](argument)})
    except ImportError as error:
        reply = json.dumps({"missing": str(error)})
    except MemoryError:
        reply = json.dumps({"why": f"it takes more than {int(memory) >> 20} MiB of memory"})
    except Exception as error:  # whatever a library or a stranger's program raises
        reply = json.dumps({"why": f"{type(error).__name__}: {error}"[:300]})
    print(reply, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
