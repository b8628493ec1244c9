"""How the searches of a run went: counts, success rate, latency percentiles, cache hits, cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Neighbouring bucket bounds differ by this factor: a percentile is right to 2.5 %, in constant memory.
_GROWTH = 1.05
_FLOOR = 1e-6  # seconds


class LatencyHistogram:
    """Latencies in logarithmic buckets. `quantile` is within 2.5 % of the exact value; histograms can be added up."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        self._buckets[math.floor(math.log(max(seconds, _FLOOR) / _FLOOR, _GROWTH))] += 1

    def merge(self, other: LatencyHistogram) -> None:
        self._buckets += other._buckets

    def state(self) -> list[list[int]]:
        """JSON-able."""
        return [list(pair) for pair in sorted(self._buckets.items())]

    @classmethod
    def from_state(cls, state: Iterable[Sequence[int]]) -> LatencyHistogram:
        out = cls()
        out._buckets.update({bucket: count for bucket, count in state})
        return out

    def quantile(self, q: float) -> float:
        """Seconds below which the share q of latencies lies; NaN when there is none."""
        rank = q * self._buckets.total()
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return _FLOOR * _GROWTH ** (bucket + 0.5)
        return math.nan


class SearchMetrics:
    """Counters of one run; every search ends in exactly one outcome.

    Outcomes: "result", "empty", or the `kind` of the SearchError. Share one object between the layers of a backend: the
    store adds cache hits and shared searches, the resilient layer attempts, latency and cost.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()  # (tool, outcome) of searches sent to the service
        self.attempts = 0  # requests sent; more than searches where some were tried again
        self.cache_hits = 0
        self.shared = 0  # searches that joined an identical one in flight
        self.cost = 0.0  # dollars
        self.latency = LatencyHistogram()  # of searches sent, retries and waiting included

    def record(self, tool: str, outcome: str, seconds: float) -> None:
        self.outcomes[tool, outcome] += 1
        self.latency.add(seconds)

    def numbers(self) -> dict[str, float]:
        """What a training log keeps of `summary`, flat: search_success_rate, search_failures, search_latency_p50 ..."""
        summary = self.summary()
        failures: dict[str, int] = summary.pop("failures")
        flat = summary | {"failures": sum(failures.values())}
        return {f"search_{name}": float(value) for name, value in flat.items() if value is not None}

    def merge(self, other: SearchMetrics) -> None:
        """Adds another process's or run's numbers."""
        self.outcomes += other.outcomes
        self.attempts += other.attempts
        self.cache_hits += other.cache_hits
        self.shared += other.shared
        self.cost += other.cost
        self.latency.merge(other.latency)

    def state(self) -> dict[str, Any]:
        """All of it, JSON-able: for other processes, and for a checkpoint."""
        return {
            "outcomes": [[tool, outcome, count] for (tool, outcome), count in sorted(self.outcomes.items())],
            "attempts": self.attempts,
            "cache_hits": self.cache_hits,
            "shared": self.shared,
            "cost": self.cost,
            "latency": self.latency.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> SearchMetrics:
        """The metrics that `state` described."""
        out = cls()
        out.outcomes.update({(tool, outcome): count for tool, outcome, count in state["outcomes"]})
        out.attempts, out.cache_hits, out.shared = state["attempts"], state["cache_hits"], state["shared"]
        out.cost, out.latency = state["cost"], LatencyHistogram.from_state(state["latency"])
        return out

    def summary(self) -> dict[str, Any]:
        """JSON-able numbers. `success_rate` is over searches sent: an empty result is a success. None = no data."""
        requests = self.outcomes.total()
        successes = sum(count for (_, outcome), count in self.outcomes.items() if outcome in ("result", "empty"))
        failures: Counter[str] = Counter()
        for (_, outcome), count in self.outcomes.items():
            if outcome not in ("result", "empty"):
                failures[outcome] += count
        searches = requests + self.cache_hits + self.shared
        return {
            "searches": searches,
            "sent": requests,
            "attempts": self.attempts,
            "success_rate": successes / requests if requests else None,
            "empty": sum(count for (_, outcome), count in self.outcomes.items() if outcome == "empty"),
            "failures": dict(sorted(failures.items())),
            "cache_hits": self.cache_hits,
            "shared": self.shared,
            "cost": round(self.cost, 6),
            "latency_p50": _number(self.latency.quantile(0.5)),
            "latency_p90": _number(self.latency.quantile(0.9)),
            "latency_p99": _number(self.latency.quantile(0.99)),
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
