"""Ending a server by SIGINT or SIGTERM, also where it was started with them ignored, as background jobs are."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM)


class _Ended(BaseException):
    """Raised by a signal before the event loop runs. No handler of errors should take it for one."""


@contextlib.contextmanager
def ends_by_signal() -> Iterator[None]:
    """The block, what a server loads included, ends without an error when SIGINT or SIGTERM comes."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended

    before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    except _Ended:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until_signal(main: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine on an event loop of its own until it ends or SIGINT or SIGTERM comes, which cancels it."""

    async def run() -> None:
        task = asyncio.ensure_future(main)
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, task.cancel)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        finally:
            for number in _ENDING:
                loop.remove_signal_handler(number)

    asyncio.run(run())
