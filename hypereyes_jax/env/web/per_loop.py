"""Things that belong to one event loop (sessions, semaphores), kept apart for callers that run several in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class PerLoop(Generic[T]):
    """`get()` makes one value for each running event loop and forgets it with the loop."""

    def __init__(self, make: Callable[[], T]):
        self._make = make
        self._values: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    def get(self) -> T:
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            value = self._values[loop] = self._make()
        return value

    def pop(self) -> T | None:
        """Removes and returns the running loop's value, if it has one."""
        return self._values.pop(asyncio.get_running_loop(), None)
