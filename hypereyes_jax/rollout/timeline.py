"""What each slot did and when, as a Chrome / Perfetto trace (open it at ui.perfetto.dev or chrome://tracing)."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from hypereyes_jax.files import write_atomic


class Timeline:
    """Spans on named tracks. Times are of `time.perf_counter`; the file counts from when this was made.

    Tracks are "device" (extend, decode, waiting), "slot N" (extend, decode, parked, evicted) and "rollout N" (search);
    of one of several replicas R "device R" and "slot R.N".
    """

    def __init__(self) -> None:
        self._zero = time.perf_counter()
        self._spans: list[tuple[str, str, float, float]] = []
        self._marks: list[tuple[str, str, float]] = []

    def replica(self, number: int) -> Timeline:
        """What one replica records on: the same timeline, with the replica's number in the names of its tracks."""
        return _ReplicaTimeline(self, number)

    def span(self, track: str, name: str, start: float, end: float) -> None:
        self._spans.append((track, name, start, end))

    def mark(self, track: str, name: str, at: float) -> None:
        self._marks.append((track, name, at))

    def cut(self) -> Timeline:
        """All that was recorded so far, as a timeline of its own; this one, and its replicas', begins anew."""
        part = Timeline()
        part._zero, self._zero = self._zero, time.perf_counter()
        part._spans, part._marks = list(self._spans), list(self._marks)
        self._spans.clear()  # in place: replicas write to the same lists
        self._marks.clear()
        return part

    def seconds(self) -> dict[str, dict[str, float]]:
        """Time by kind of track ("device", "slot", "rollout") and name of span."""
        total: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for track, name, start, end in self._spans:
            total[track.split()[0]][name] += end - start
        return {kind: dict(names) for kind, names in total.items()}

    def utilisation(self) -> dict[str, float]:
        """Shares of the time from a device's first span to its last, of all replicas: how a generation's time was used.

        "extend" reads, "decode" samples, "waiting" has nothing to do because every rollout is searching, "idle" is the
        rest: work was there, or about to be, and the device did none. All 0 where nothing was recorded.
        """
        devices: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
        for track, name, start, end in self._spans:
            if track.split()[0] == "device":
                devices[track].append((name, start, end))
        if not devices:
            return {"extend": 0.0, "decode": 0.0, "waiting": 0.0, "idle": 0.0}
        whole = sum(max(end for *_, end in spans) - min(start for _, start, _ in spans) for spans in devices.values())
        every = [span for spans in devices.values() for span in spans]
        shares = {
            kind: sum(end - start for name, start, end in every if name == kind) / whole if whole else 0.0
            for kind in ("extend", "decode", "waiting")
        }
        return shares | {"idle": max(0.0, 1.0 - sum(shares.values()))}

    def write(self, path: Path) -> None:
        """Writes the trace as JSON. Raises UserError if the place can't be written."""
        names = {track for track, *_ in self._spans} | {track for track, *_ in self._marks}
        tracks = {track: number for number, track in enumerate(sorted(names, key=_order))}
        events: list[dict[str, Any]] = [
            {"ph": "M", "pid": 0, "tid": tid, "name": "thread_name", "args": {"name": track}}
            for track, tid in tracks.items()
        ]
        events += [
            {"ph": "M", "pid": 0, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}
            for tid in tracks.values()
        ]
        for track, name, start, end in self._spans:
            spent = {"ts": self._micros(start), "dur": round((end - start) * 1e6, 1)}
            events.append({"ph": "X", "pid": 0, "tid": tracks[track], "name": name, **spent})
        for track, name, at in self._marks:
            events.append({"ph": "i", "s": "t", "pid": 0, "tid": tracks[track], "name": name, "ts": self._micros(at)})
        write_atomic(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))

    def _micros(self, at: float) -> float:
        return round((at - self._zero) * 1e6, 1)


class _ReplicaTimeline(Timeline):
    def __init__(self, whole: Timeline, number: int):
        self._zero, self._spans, self._marks = whole._zero, whole._spans, whole._marks
        self._number = number

    def span(self, track: str, name: str, start: float, end: float) -> None:
        super().span(self._renamed(track), name, start, end)

    def mark(self, track: str, name: str, at: float) -> None:
        super().mark(self._renamed(track), name, at)

    def _renamed(self, track: str) -> str:
        kind, _, number = track.partition(" ")
        return f"{kind} {self._number}.{number}" if number else f"{kind} {self._number}"


def _order(track: str) -> tuple[str, list[int]]:
    """Sorts tracks by kind, replica and number."""
    kind, _, number = track.partition(" ")
    return kind, [int(part) for part in number.split(".") if part.isdigit()]
