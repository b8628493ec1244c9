"""Runs `hypereyes` commands, each in a fork of one process that has made their imports, which take seconds.

`tests.forked` does so for pieces of Python that are known beforehand; these are given one after another, and bounded.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO, NamedTuple

IMPORTS = (
    "hypereyes_jax.cli.main", "jax", "aiohttp", "tyro", "PIL.Image", "yaml", "hypereyes_jax.models.pretrained",
    "hypereyes_jax.eval.benchmark_play", "hypereyes_jax.eval.report", "hypereyes_jax.eval.split",
    "hypereyes_jax.data.questions", "hypereyes_jax.env.world", "hypereyes_jax.data.collection.pipeline",
    "hypereyes_jax.train.sft", "hypereyes_jax.train.rl_run",
)  # fmt: skip
_CAPABILITIES = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of Linux: root reads what it may not


class Ended(NamedTuple):
    code: int | None
    """Exit status; None if it was still running when its time was up."""
    said: str
    """What it printed, to both streams, and its traceback."""


class ForkedCommands:
    """The process that forks. Use it in a `with` statement."""

    def __enter__(self) -> ForkedCommands:
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def call(
        self,
        words: list[str],
        seconds: float = 600.0,
        without_rights: bool = False,
        ending: tuple[signal.Signals, float] | None = None,
    ) -> Ended:
        """Runs a command to its end, or kills it after so many seconds.

        Args:
          without_rights: root, too, may not open what the file's mode forbids.
          ending: a signal that it is sent, and how many seconds after its start.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([words, seconds, without_rights, ending]) + "\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))


def _bind_root() -> None:
    """Takes from this process the right to open files whatever their mode."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice 32 bits
    if libc.capget(header, data) == 0:
        data[0] &= ~_CAPABILITIES
        libc.capset(header, data)


def _child(words: list[str], without_rights: bool, output: IO[str]) -> int:
    from hypereyes_jax.cli.main import main

    os.setsid()
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if without_rights:
        _bind_root()
    code = 1
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _run(words: list[str], seconds: float, without_rights: bool, ending: tuple[int, float] | None) -> Ended:
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        child = os.fork()
        if child == 0:
            os._exit(_child(words, without_rights, output))
        code, begun = None, time.monotonic()
        end = begun + seconds
        while time.monotonic() < end:
            if ending is not None and time.monotonic() >= begun + ending[1]:
                os.kill(child, ending[0])  # it is not waited for yet, so that its number is nobody else's
                ending = None
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.005)
        else:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        output.seek(0)
        return Ended(code, output.read())


def serve() -> None:
    import importlib

    answers = os.fdopen(os.dup(1), "w")
    sys.path[0] = str(Path.cwd())
    for name in IMPORTS:
        importlib.import_module(name)
    sys.modules["hypereyes_jax.env.world"].World.load().prepare()  # the indexes, which each command would make anew
    gc.collect()
    gc.freeze()  # a command's collections would read all of it, and so copy its pages
    for line in sys.stdin:
        print(json.dumps(_run(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve()
