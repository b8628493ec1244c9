"""When this process compiled programs, so that what a question costs is not what its first shape cost."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import jax.monitoring

_COMPILING = "/jax/core/compile/"  # jax's events: tracing, lowering, compiling


class CompileClock:
    """Listens to jax for the time of a `with` block."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> CompileClock:
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(_COMPILING):  # it is told at the event's end
            end = time.perf_counter()
            self._spans.append((end - duration_secs, end))

    def seconds_between(self, start: float, end: float) -> float:
        """Seconds of [start, end], on `time.perf_counter`'s clock, in which something was compiled."""
        total, position = 0.0, start
        for begin, finish in sorted(self._spans):
            begin, finish = max(begin, position), min(finish, end)
            if finish > begin:
                total += finish - begin
                position = finish
        return total
