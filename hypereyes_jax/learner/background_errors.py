"""What Orbax and asyncio log of a write that failed in the background, which is raised to who waits for it anyway."""

from __future__ import annotations

import logging

# Files of Orbax that log an error with its traceback and then raise it to who waits.
_RAISING = ("async_checkpointer.py", "future.py", "checkpoint_manager.py")


def print_once() -> None:
    """Make an error of a write that runs in the background be told where it is raised, and nowhere else."""
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Repeated) for each in logger.filters):
            logger.addFilter(_Repeated())


class _Repeated(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        if record.name == "absl":
            return record.filename not in _RAISING
        # One write of many that failed together; asyncio tells each that nobody waited for by itself.
        return not (isinstance(error, ValueError) and "Error writing" in str(error))
