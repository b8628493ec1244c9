"""JSON objects around a list of rows, like {"version": "2.0", "data": [...]}: where the rows lie, undecoded."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field

from hypereyes_jax.data.sources.columns import field_of
from hypereyes_jax.data.sources.json_rows import Span, StableFile, marks

# Names under which exports keep their rows. A list under another name may be part of one row.
WRAPPERS = frozenset(
    "annotations data dataset demonstrations entries examples instances items questions records rows samples train "
    "training trajectories validation valid val dev test eval".split()
)
_BACKSLASH, _QUOTE = 92, 34


@dataclass
class TopLevel:
    """What stands in a file's first JSON object, looked at from outside."""

    names: list[str] = field(default_factory=list)
    lists: dict[str, list[Span]] = field(default_factory=dict)  # of objects, by name: where each object lies
    alone: bool = False  # nothing follows the object

    def wraps_rows(self, columns: Collection[str]) -> bool:
        """Whether the object is only there for the rows in it, and no row itself.

        Args:
          columns: names that a row's own fields were said to have.
        """
        if not self.alone or any(_is_of_a_row(name) or name in columns for name in self.names):
            return False
        return any(name in WRAPPERS for name in self.lists)


def _is_of_a_row(name: str) -> bool:
    return field_of(name) in ("text", "messages") or name in ("turns", "observations")


def top_level(file: StableFile, start: int) -> TopLevel | None:
    """The object that begins at a byte of a file; None for one that does not end.

    What follows the object is not read further than to its first byte that is not blank.
    """
    top = TopLevel()
    depth, escape, quote, begin = 0, -1, 0, 0
    inside, naming, name, objects = False, False, "", 0
    spans: list[Span] | None = None  # of the list at the first depth that is under way
    for at, byte in marks(file, start):
        if inside:
            if at == escape:
                continue
            if byte == _BACKSLASH:
                escape = at + 1
            elif byte == _QUOTE:
                inside = False
                if naming and depth == 1:
                    name, naming = _text(file, quote, at + 1), False
                    top.names.append(name)
        elif byte == _QUOTE:
            inside, quote = True, at
        elif byte in b"{[":
            depth += 1
            naming = depth == 1
            if depth == 2 and byte == b"["[0]:
                spans, begin, objects = [], at + 1, 0
            elif depth == 3 and spans is not None and byte == b"{"[0]:
                objects += 1
        elif byte in b"}]":
            depth -= 1
            if depth == 1 and spans is not None:
                spans.append((begin, at))
                if objects == len(spans):
                    top.lists[name] = spans
                spans = None
            elif depth == 0:
                top.alone = _blank(file, at + 1)
                return top
        elif depth == 2 and spans is not None:  # a comma
            spans.append((begin, at))
            begin = at + 1
        elif depth == 1:
            naming = True
    return None


def _text(file: StableFile, start: int, stop: int) -> str:
    try:
        return str(json.loads(file.read(start, min(stop, start + 1000))))
    except (ValueError, RecursionError):
        return ""


def _blank(file: StableFile, start: int) -> bool:
    """Whether nothing but blanks follows; a file that ends in megabytes of them is not told from one that goes on."""
    return not file.read(start, min(file.size, start + (1 << 20))).strip()
