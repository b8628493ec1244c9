"""Runs tests one after another, each in a fork of a process that has imported the heavy packages already.

Reads one test's id a line and answers with a line of JSON: pytest's exit status and the end of what it printed. The
package under test is imported in the forks only, so that each sees the files as they are then. Importing jax starts no
threads and opens no device: it is safe to fork after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile

import jax  # noqa: F401
import numpy  # noqa: F401
import optax  # noqa: F401
import pytest
import torch  # noqa: F401
import transformers  # noqa: F401

TIMED_OUT = 124


def run(test: str, seconds: int) -> tuple[int, str]:
    """(exit status, output) of one test. A test that takes too long is killed with all that it started."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            signal.alarm(seconds)  # its default action ends the process
            os._exit(int(pytest.main(["-x", "-n", "0", "-p", "no:cacheprovider", test])))
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return TIMED_OUT if code == -signal.SIGALRM else code, output.read()[-2000:]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(line.strip(), int(sys.argv[1]))), flush=True)
