"""Running things at the same time without hiding which of them failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def all_at_once(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs coroutines together and returns their results in order.

    Unlike a TaskGroup it raises the first failure itself and not a group of them, so that a defect keeps its own type
    and traceback. The others are then cancelled and waited for, as they are when this is cancelled.
    """
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
