"""Ending a server by SIGINT or SIGTERM, also where it was started with them ignored, as background jobs are."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM)


class _Ended(BaseException):
    """Raised by a signal before the event loop runs. No handler of errors should take it for one."""


@contextlib.contextmanager
def ends_by_signal() -> Iterator[Callable[[], bool]]:
    """The block, what a server loads included, ends without an error when SIGINT or SIGTERM comes.

    Gives a function that says whether one has come. Python drops what a handler raises while a destructor or a callback
    of the garbage collector runs, so whoever goes on to wait must ask first.
    """
    came = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raise _Ended

    report = sys.unraisablehook
    sys.unraisablehook = lambda error: None if isinstance(error.exc_value, _Ended) else report(error)
    before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield lambda: came
    except _Ended:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = report


def run_until_signal(main: Coroutine[Any, Any, None], came: Callable[[], bool]) -> None:
    """Runs a coroutine on an event loop of its own until it ends or SIGINT or SIGTERM comes, which cancels it.

    Args:
      came: of `ends_by_signal`: a signal that came before.
    """

    async def run() -> None:
        task = asyncio.ensure_future(main)
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, task.cancel)
        if came():
            task.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        finally:
            for number in _ENDING:
                loop.remove_signal_handler(number)

    asyncio.run(run())
