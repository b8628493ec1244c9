import asyncio
import copy
import errno
import functools
import json
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hypereyes_jax.learner.background_errors import print_once


def raised_in(module, error):
    """The error with the traceback that it has when code of a module raises it."""
    scope = {"__name__": module}
    exec("def write(error):\n    raise error", scope)
    try:
        scope["write"](error)
    except Exception as raised:
        return raised


DISK = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("logger", "file", "error", "logged"),
    [
        ("absl", "orbax/async_checkpointer.py", ValueError("Error writing: No space left on device"), False),
        ("absl", "orbax/future.py", OSError(28, "No space left on device"), False),
        ("absl", "orbax/metadata/checkpoint.py", ValueError("not raised to anybody"), True),
        ("absl", "orbax/async_checkpointer.py", None, True),
        ("asyncio", "base_events.py", raised_in("orbax.checkpoint", ValueError("X: Error writing 'key/0'")), False),
        ("asyncio", "base_events.py", raised_in("orbax.checkpoint._src.serialization", copy.copy(DISK)), False),
        ("asyncio", "base_events.py", raised_in("tensorstore", OSError(errno.EMFILE, "Too many open files")), False),
        ("asyncio", "base_events.py", raised_in("tensorstore", OSError(111, "Connection refused")), True),
        ("asyncio", "base_events.py", raised_in("aiohttp.connector", OSError(errno.EMFILE, "Too many files")), True),
        ("asyncio", "base_events.py", raised_in("orbaxes.own_tool", copy.copy(DISK)), True),
        ("asyncio", "base_events.py", raised_in("own_tool", ValueError("Error writing a page")), True),
        ("asyncio", "base_events.py", copy.copy(DISK), True),
        ("asyncio", "asyncio/base_events.py", ValueError("of a task of ours"), True),
        ("asyncio", "asyncio/base_events.py", RuntimeError("Error writing"), True),
    ],
)
def test_only_errors_that_are_raised_elsewhere_are_not_logged(logger, file, error, logged):
    print_once()
    print_once()
    record = logging.LogRecord(
        logger, logging.ERROR, file, 1, "failed", (), (type(error), error, None) if error else None
    )
    assert bool(logging.getLogger(logger).filter(record)) is logged
    assert len(logging.getLogger(logger).filters) == len(set(logging.getLogger(logger).filters))


def unraisable(call):
    """What `sys.unraisablehook` is given of a call that C code makes and that fails."""
    try:
        call()
    except Exception as error:
        trace = error.__traceback__.tb_next  # the call itself is C's
        return SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=trace, err_msg=None, object=None)
    raise AssertionError("it does not fail")


def test_a_write_that_reports_to_a_closed_loop_says_nothing_and_all_else_is_told(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    print_once()
    print_once()
    loop = asyncio.new_event_loop()
    loop.close()
    sys.unraisablehook(unraisable(functools.partial(loop.call_soon_threadsafe, print)))
    assert told == []
    nested = unraisable(lambda: loop.call_soon_threadsafe(print))  # code of ours calls it
    other = unraisable(functools.partial(json.loads, "{"))
    for each in (nested, other):
        sys.unraisablehook(each)
    assert told == [nested, other]


SAVE_ON_A_FULL_DISK = """
import os
import sys
import numpy as np
from hypereyes_jax.errors import UserError
from pathlib import Path
from hypereyes_jax.learner.checkpoint import Checkpoints
from hypereyes_jax.learner.state import TrainState

random = np.random.default_rng(0)
weights = {f"w{number}": random.normal(size=(64, 64)).astype(np.float32) for number in range(50)}
state = TrainState(np.int32(1), weights, {}, weights, np.zeros(2, np.uint32))
for attempt in range(3):
    try:
        with Checkpoints(Path(sys.argv[1]) / str(attempt)) as checkpoints:
            checkpoints.save(state, {})
    except UserError as error:
        print(error, flush=True)
os._exit(0)  # Python would wait for Orbax's threads, which now and then wait for each other for five minutes
"""


def test_a_checkpoint_on_a_full_disk_is_one_sentence_and_no_traceback(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this process may not mount a small disk")
    try:
        done = subprocess.run(
            [sys.executable, "-c", SAVE_ON_A_FULL_DISK, tmp_path],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
    finally:
        subprocess.run(["umount", tmp_path], check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout.count("the disk is full. Free some space") == 3
