"""What Orbax, asyncio and TensorStore tell of a write that failed in the background, and that is raised anyway."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Callable

# Files of Orbax that log an error with its traceback and then raise it to who waits.
_RAISING = ("async_checkpointer.py", "future.py", "checkpoint_manager.py")


_WRITING = ("orbax", "tensorstore")  # packages that write checkpoints


def print_once() -> None:
    """Make an error of a write that runs in the background be told where it is raised, and nowhere else."""
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Repeated) for each in logger.filters):
            logger.addFilter(_Repeated())
    if not isinstance(sys.unraisablehook, _WithoutLateReports):
        sys.unraisablehook = _WithoutLateReports(sys.unraisablehook)


class _WithoutLateReports:
    """A hook for all but what TensorStore's threads print by themselves: after the first write of many has failed,
    Orbax closes the event loop that the others report to."""

    def __init__(self, hook: Callable[[sys.UnraisableHookArgs], object]):
        self._hook = hook

    def __call__(self, unraisable: sys.UnraisableHookArgs) -> None:
        error, trace = unraisable.exc_value, unraisable.exc_traceback
        # Nothing of Python made the call, or the trace would begin there.
        reported = trace is not None and trace.tb_frame.f_code.co_name == "call_soon_threadsafe"
        if not (reported and isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self._hook(unraisable)


class _Repeated(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        if record.name == "absl":
            if _is_of_the_disk(error):
                record.exc_info = None  # its message says so in a line
            return record.filename not in _RAISING
        # One write of many that failed together; asyncio tells each that nobody waited for by itself. Others' errors of
        # a disk are told nowhere else.
        failed = _is_of_the_disk(error) or (isinstance(error, ValueError) and "Error writing" in str(error))
        return not (failed and _of_a_checkpoint(error))


def _of_a_checkpoint(error: BaseException) -> bool:
    """Whether Orbax or TensorStore has a part in it, by the modules whose code it went through."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.partition(".")[0] in _WRITING for module in modules)


def _is_of_the_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE)
