"""What a step of RL took, over all processes: seconds by what they went to, throughput, searches, memory.

Logged for each step (`metrics.jsonl`, TensorBoard), with `rl/` before each name:

    seconds_generation   the engines sampled and read
    seconds_search       an engine stood still because all its rollouts waited for searches
    seconds_judging      answers were judged and groups scored
    seconds_packing      samples went to the process that packs them, and were packed into arrays
    seconds_waiting      a process waited for the others, for the slowest in what comes before
    seconds_teacher      failed rollouts were scored by the teacher
    seconds_training     the optimiser step
    seconds_sync         the engines got the new weights
    rollouts_per_second  of all processes, in the time of the slowest
    engine_*             shares of the engines' time
    staleness, staleness_max, partial_rollouts, carried_groups, carried_rollouts, rollouts_under_way
                         with rollouts ahead of the learner: docs/ahead.md
    packed_share         tokens among the positions that the optimiser step computed
    samples_moved        packed by another process than the one that played them
    sync_gib             received by all devices
    host_peak_gib, device_peak_gib   of the process that has most
    search_*             searches of the run so far; of steps that a resumed run repeats, those of the last time

Seconds and shares are means: of generation, search and engines over the processes that play, else over all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hypereyes_jax.env.search.metrics import SearchMetrics
from hypereyes_jax.launch.processes import Processes

_OF_PLAYERS = ("seconds_generation", "seconds_search", "engine_")
_SUMMED = ("sync_gib", "carried_groups", "carried_rollouts", "rollouts_under_way")
_HIGHEST = ("host_peak_gib", "device_peak_gib", "staleness_max")


class Laps:
    """Seconds of this process's step by what they went to. Time in `Processes.gather` is waiting, wherever it was."""

    def __init__(self, processes: Processes):
        self._processes = processes
        self._seconds = {"seconds_waiting": 0.0}
        self._at, self._waited = time.perf_counter(), processes.waited_seconds

    def lap(self, name: str) -> float:
        """What went by since the last lap goes to `seconds_NAME`, and is returned; but not what was waiting."""
        now, waited = time.perf_counter(), self._processes.waited_seconds
        waiting = waited - self._waited
        seconds = now - self._at - waiting
        self._at, self._waited = now, waited
        self._seconds["seconds_waiting"] += waiting
        key = f"seconds_{name}"
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds
        return seconds

    def move(self, seconds: float, source: str, target: str) -> None:
        """Counts so many of the seconds of `source` as `target`."""
        self._seconds[f"seconds_{source}"] -= seconds
        self._seconds[f"seconds_{target}"] = self._seconds.get(f"seconds_{target}", 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """The seconds of each phase, by its name in the log."""
        return dict(self._seconds)


def over_processes(
    processes: Processes, own: Mapping[str, float], rollouts: int, playing: float, searches: SearchMetrics
) -> dict[str, float]:
    """The step's figures of all processes, alike in each. Every process must call it.

    Args:
      own: this process's, by their names in the log.
      rollouts: it played, in `playing` seconds.
      searches: all that were made in the run so far, of all processes (`searches_so_far`).
    """
    everyone = processes.gather([dict(own), rollouts, playing])
    figures: Sequence[Mapping[str, float]] = [each[0] for each in everyone]
    players = [figures[number] for number in processes.replicas.drivers]
    out = {}
    for name in sorted({name for each in figures for name in each}):
        among = players if name.startswith(_OF_PLAYERS) else figures
        values = [each[name] for each in among if name in each]
        over = np.sum if name in _SUMMED else np.max if name in _HIGHEST else np.mean
        out[name] = float(over(values))
    slowest = max(each[2] for each in everyone)
    out["rollouts_per_second"] = sum(each[1] for each in everyone) / slowest
    return out | searches.numbers()


def searches_so_far(processes: Processes, own: SearchMetrics, earlier: Mapping[str, Any] | None) -> SearchMetrics:
    """The searches of all processes, alike in each. Every process must call it.

    Args:
      own: of this process since it was started.
      earlier: `SearchMetrics.state` of those before; None = there were none.
    """
    whole = SearchMetrics() if earlier is None else SearchMetrics.from_state(earlier)
    for state in processes.gather(own.state()):
        whole.merge(SearchMetrics.from_state(state))
    return whole
