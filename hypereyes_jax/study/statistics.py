"""What differences between runs can be told from chance: paired bootstrap intervals, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

Verdict = Literal["seen", "opposite", "undecided"]
_RESAMPLES = 4000


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Bootstrap interval of a mean. Raises ValueError for no values."""
    if not values:
        raise ValueError("a mean of nothing has no interval")
    array = np.asarray(values, float)
    return _bootstrap(array, seed)


def paired_difference(one: Mapping[str, float], other: Mapping[str, float], seed: int = 0) -> Interval | None:
    """Mean of `other - one` over the keys that both have, with the bootstrap interval over questions; None without any.

    Pairing takes out what makes a question hard: the same questions are asked of both.

    Args:
      one, other: by "seed/question", or by question. Answers to one question are drawn together.
    """
    changes: dict[str, list[float]] = {}
    for key in sorted(one.keys() & other.keys()):
        changes.setdefault(key.partition("/")[2] or key, []).append(other[key] - one[key])
    if not changes:
        return None
    return _bootstrap(np.array([sum(each) / len(each) for each in changes.values()], float), seed)


def direction(interval: Interval, expected: int) -> Verdict:
    """Whether a difference has the sign that was expected: +1 or -1. The interval must exclude 0 to decide."""
    if expected not in (1, -1):
        raise ValueError(f"expected must be 1 or -1, got {expected}")
    low, high = (interval.low, interval.high) if expected > 0 else (-interval.high, -interval.low)
    return "seen" if low > 0 else "opposite" if high < 0 else "undecided"


def spread(values: Sequence[float]) -> float:
    """Unbiased standard deviation; 0 for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def binomial_spread(share: float, n: int) -> float:
    """Standard deviation that asking n questions alone gives an accuracy."""
    return math.sqrt(share * (1 - share) / n) if n else 0.0


def _bootstrap(values: np.ndarray, seed: int) -> Interval:
    rng = np.random.default_rng([seed, len(values)])
    resamples = rng.integers(len(values), size=(_RESAMPLES, len(values)))
    means = values[resamples].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
