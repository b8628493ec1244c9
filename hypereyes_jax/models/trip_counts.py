"""How long loops run whose length is known on the device only, for those who read a program before it has run."""

from __future__ import annotations

import contextlib
import re

import jax

_MARK = "expected_trips_"
_FOUND = re.compile(_MARK + r"([\d.]+)")
ON_CHIP = "stays_on_chip"  # in the name of a loop whose matmuls' results are small enough for a cache


def expected_trips(count: float) -> contextlib.AbstractContextManager[None]:
    """Around a loop with a traced bound: its usual number of trips, as a name that programs carry along."""
    return jax.named_scope(f"{_MARK}{count:.2f}")


def read_trips(name: str) -> float | None:
    """The innermost count in an operation's name, or None."""
    found = _FOUND.findall(name)
    return float(found[-1]) if found else None
