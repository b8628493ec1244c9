"""The timeline of a rollout engine (`timeline*.json`, a Chrome trace) as lanes to draw: what each slot did and when."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json

# Spans drawn at most, from the start of the run: more would make the page large and slow.
_MAX_SPANS = 6000
# Neighbours of a kind are drawn as one where the gap is less than this share of the time: about half a pixel.
_JOIN = 1 / 2500


def read_timeline(path: Path) -> dict[str, Any]:
    """Lanes of the device and the slots, and the share of time that each kind of lane spent in each kind of span.

    Returns:
      `{"title", "seconds", "shown_seconds", "kinds": [name], "lanes": [{"name", "spans": [[kind, start, end]]}],
      "shares": {"device": {name: share}, "slot": {name: share}}}`; times in seconds from the first span.

    Raises:
      UserError: the file is not such a trace.
    """
    try:
        events = read_json(path)["traceEvents"]
        tracks = {e["tid"]: str(e["args"]["name"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
        spans = sorted(
            (float(e["ts"]) / 1e6, float(e["dur"]) / 1e6, tracks[e["tid"]], str(e["name"]))
            for e in events
            if e["ph"] == "X" and tracks[e["tid"]].split()[0] in ("device", "slot")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a timeline ({type(error).__name__}: {error}). Remove it.") from error
    if not spans:
        raise UserError(f"{path} holds no span of the device or a slot. Remove it.")
    zero = spans[0][0]
    seconds = max(start + length for start, length, _, _ in spans) - zero
    lanes: dict[str, list[list[Any]]] = {track: [] for track in sorted({s[2] for s in spans}, key=_order)}
    kinds: list[str] = []
    drawn = 0
    for start, length, track, name in spans:
        if name not in kinds:
            kinds.append(name)
        lane, kind, begin, end = lanes[track], kinds.index(name), start - zero, start + length - zero
        if lane and lane[-1][0] == kind and begin - lane[-1][2] < _JOIN * seconds:
            lane[-1][2] = round(end, 5)
        elif drawn < _MAX_SPANS:
            lane.append([kind, round(begin, 5), round(end, 5)])
            drawn += 1
        else:
            break
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for _, length, track, name in spans:
        spent[track.split()[0]][name] += length
    count = {kind: sum(track.split()[0] == kind for track in lanes) for kind in spent}
    return {
        "title": path.stem,
        "seconds": seconds,
        "shown_seconds": max(end for lane in lanes.values() for _, _, end in lane),
        "kinds": kinds,
        "lanes": [{"name": track, "spans": lane} for track, lane in lanes.items()],
        "shares": {
            kind: {name: time / (seconds * count[kind]) for name, time in names.items()}
            for kind, names in spent.items()
        },
    }


def _order(track: str) -> tuple[str, list[int]]:
    """By kind, replica (of several) and number: "device", "slot 3", "device 1", "slot 1.3"."""
    kind, _, number = track.partition(" ")
    return kind, [int(part) for part in number.split(".") if part.isdigit()]
