"""Runs pieces of Python, each in a fork of one process that has made the imports which all of them share.

As a process of its own for each piece would run them, without the seconds that the same imports take again and again.
Importing jax starts no threads and opens no device: it is safe to fork after it.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple


class Ran(NamedTuple):
    code: int
    """Exit status."""
    said: str
    """What it printed, and its traceback."""
    seconds: float
    """CPU time of the fork."""
    imports: float
    """CPU time of the process until its first fork."""


def run_forked(imports: str, pieces: Sequence[str]) -> list[Ran]:
    """What became of each piece after the statement `imports`; every other module is imported by the piece anew."""
    given = json.dumps([imports, *pieces])
    done = subprocess.run([sys.executable, __file__], input=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [Ran(*json.loads(line)) for line in done.stdout.splitlines()]


def _fork(piece: str) -> tuple[int, str, float]:
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            exec(piece, {"__name__": "__main__"})
            sys.exit()
        _, status, used = os.wait4(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read(), used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as `python -c` has it, in place of this folder
    imports, *pieces = json.load(sys.stdin)
    exec(imports)
    spent = time.process_time()
    gc.collect()
    gc.freeze()  # a fork's collections would read all of it, and so copy its pages
    for piece in pieces:
        print(json.dumps([*_fork(piece), spent]), flush=True)
