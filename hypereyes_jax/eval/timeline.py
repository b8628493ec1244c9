"""The timeline of a rollout engine (`timeline*.json`, a Chrome trace) as lanes to draw: what each slot did and when."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json_object

# Spans drawn at most, from the start of the run: more would make the page large and slow.
_MAX_SPANS = 6000
# Neighbours of a kind are drawn as one where the gap is less than this share of the time: about half a pixel.
_JOIN = 1 / 2500
_CENTURY = 3.2e15  # in microseconds


def read_timeline(path: Path) -> dict[str, Any]:
    """Lanes of the device and the slots, and the share of time that each kind of lane spent in each kind of span.

    Returns:
      `{"title", "seconds", "shown_seconds", "kinds": [name], "lanes": [{"name", "spans": [[kind, start, end]]}],
      "shares": {"device": {name: share}, "slot": {name: share}}}`; times in seconds from the first span.

    Raises:
      UserError: the file is not such a trace.
    """
    try:
        events = [e for e in read_json_object(path)["traceEvents"] if e["ph"] in ("M", "X")]
        tracks = {
            _track(e["tid"]): str(e["args"]["name"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"
        }
        spans = sorted(
            (_seconds(e["ts"], -_CENTURY), _seconds(e["dur"]), tracks[_track(e["tid"])], str(e["name"])[:200])
            for e in events
            if e["ph"] == "X" and tracks[_track(e["tid"])].partition(" ")[0] in ("device", "slot")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a timeline ({type(error).__name__}: {error}). Remove it.") from error
    if not spans:
        raise UserError(f"{path} holds no span of the device or a slot. Remove it.")
    zero = spans[0][0]
    seconds = max(start + length for start, length, _, _ in spans) - zero
    if seconds <= 0:
        raise UserError(f"{path} holds no span that takes time. Remove it.")
    lanes: dict[str, list[list[Any]]] = {track: [] for track in sorted({s[2] for s in spans}, key=_order)}
    kinds: list[str] = []
    count_drawn = 0
    for start, length, track, name in spans:
        if name not in kinds:
            kinds.append(name)
        lane, kind, begin, end = lanes[track], kinds.index(name), start - zero, start + length - zero
        if lane and lane[-1][0] == kind and begin - lane[-1][2] < _JOIN * seconds:
            lane[-1][2] = round(end, 5)
        elif count_drawn < _MAX_SPANS:
            lane.append([kind, round(begin, 5), round(end, 5)])
            count_drawn += 1
        else:
            break
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for _, length, track, name in spans:
        sums[track.split()[0]][name] += length
    count = {kind: sum(track.split()[0] == kind for track in lanes) for kind in sums}
    return {
        "title": path.stem,
        "seconds": seconds,
        "shown_seconds": max(end for lane in lanes.values() for _, _, end in lane),
        "kinds": kinds,
        "lanes": [{"name": track, "spans": lane} for track, lane in lanes.items()],
        "shares": {
            kind: {name: time / (seconds * count[kind]) for name, time in names.items()} for kind, names in sums.items()
        },
    }


def _track(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("'tid' must be a whole number")
    return value


def _seconds(value: Any, least: float = 0.0) -> float:
    """Seconds of so many microseconds, between `least` and a century. Raises ValueError or TypeError for all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("'ts' and 'dur' must be numbers")
    if not least <= value <= _CENTURY:
        raise ValueError(f"a time of {value} microseconds is not a valid one")
    return value / 1e6


def _order(track: str) -> tuple[str, list[int]]:
    """Sort key: kind, replica (of several) and number: "device", "slot 3", "device 1", "slot 1.3"."""
    kind, _, number = track.partition(" ")
    return kind, [int(part) for part in number.split(".") if part.isdecimal() and len(part) < 10]
