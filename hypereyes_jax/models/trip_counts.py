"""How long loops run whose length is known on the device only, for those who read a program before it has run."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_MARK = "expected_trips_"
_COUNT = re.compile(_MARK + r"([\d.]+)")
_BYTES_MARK = "expected_bytes_"
_BYTES = re.compile(_BYTES_MARK + r"(\d+)")
_POSITIONS: ContextVar[float] = ContextVar("usual positions", default=math.inf)
ON_CHIP = "stays_on_chip"  # in the name of a loop whose matmuls' results are small enough for a cache


def expected_trip_count(count: float) -> contextlib.AbstractContextManager[None]:
    """Names the usual trip count of a loop with a traced bound, around that loop: programs carry the name along."""
    return jax.named_scope(f"{_MARK}{count:.2f}")


def expected_bytes(count: float) -> contextlib.AbstractContextManager[None]:
    """Names the bytes that a kernel reads and writes of the arrays it has references to, around that kernel."""
    return jax.named_scope(f"{_BYTES_MARK}{count:.0f}")


@contextlib.contextmanager
def usual_positions(count: float) -> Iterator[None]:
    """Within the block, kernels that read as far as a sequence goes are counted for sequences of this length."""
    token = _POSITIONS.set(count)
    try:
        yield
    finally:
        _POSITIONS.reset(token)


def expected_positions(most: int) -> float:
    """How many positions of a sequence a kernel usually reads, of those that it may have."""
    return min(most, _POSITIONS.get())


def read_bytes(name: str) -> float | None:
    """The innermost number of bytes in an operation's name, or None."""
    matches = _BYTES.findall(name)
    return float(matches[-1]) if matches else None


def read_trip_count(name: str) -> float | None:
    """The innermost count in an operation's name, or None."""
    matches = _COUNT.findall(name)
    return float(matches[-1]) if matches else None
