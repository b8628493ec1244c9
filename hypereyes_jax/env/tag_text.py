"""The tags of a turn, and a text in which they are looked up again and again, in time linear in its length."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable

from hypereyes_jax.env.web.untrusted import THOUGHT_TAGS

# The first is the method's. Other models think in the others, and models of any kind in capitals.
REASONS = ("<reason>", *(f"<{tag}>" for tag in THOUGHT_TAGS))
CALL, CALL_END = "<tool_call>", "</tool_call>"
ANSWER, ANSWER_END = "<answer>", "</answer>"
OPENINGS = (*REASONS, CALL, ANSWER)
MOST_TAGS = 256  # opening tags of a turn that are read
MOST_CALL_CHARACTERS = 65_536  # of the JSON of one <tool_call>
JSON = json.JSONDecoder()
_SPACE = re.compile(r"\s*")
_MOST_MARKS = 1024  # opening and closing marks of one tag that are paired; those beyond count as unclosed


class TagText:
    """Remembers where the next occurrence of each tag is, so that looking forward never scans the same part twice.

    Positions asked for may only grow for one tag, as they do in a reader that goes on.

    Args:
      text: what was written.
      marks: the same with its tags spelt as they are looked up, each at its place; None = they are spelt so.
    """

    def __init__(self, text: str, marks: str | None = None):
        self.text = text
        self.marks = text if marks is None else marks
        self._next: dict[str, tuple[int, int]] = {}  # tag -> (from where it was looked for, where it stands or -1)
        self._last: dict[str, int] = {}
        self._closings: dict[str, dict[int, int]] = {}  # tag -> the end of each that is closed -> its closing mark

    def find(self, tag: str, position: int) -> int | None:
        """Where `tag` begins at `position` or later; None if nowhere."""
        start, place = self._next.get(tag, (-1, -2))
        if place == -2 or position < start or 0 <= place < position:
            place = self.marks.find(tag, position)
            self._next[tag] = position, place
        return None if place < 0 else place

    def first(self, tags: Iterable[str], position: int) -> tuple[int, str] | None:
        """The first of several tags at `position` or later, as (where it begins, tag); None if there is none."""
        places = [(at, tag) for tag in tags if (at := self.find(tag, position)) is not None]
        return min(places, default=None)

    def last(self, tag: str) -> int:
        """Where the last `tag` begins; -1 if nowhere."""
        if tag not in self._last:
            self._last[tag] = self.marks.rfind(tag)
        return self._last[tag]

    def closing(self, tag: str, position: int) -> int | None:
        """Where the closing mark of the `tag` that ends at `position` begins, tags within it having marks of their own.

        None if it has none.
        """
        if tag not in self._closings:
            self._closings[tag] = self._paired(tag)
        return self._closings[tag].get(position)

    def _paired(self, tag: str) -> dict[int, int]:
        marks = re.finditer(re.escape(tag).replace("<", "</?", 1), self.marks)
        stack, pairs = list[int](), dict[int, int]()
        for mark in itertools.islice(marks, _MOST_MARKS):
            if mark.group() == tag:
                stack.append(mark.end())
            elif stack:
                pairs[stack.pop()] = mark.start()
        return pairs


def skip_space(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no white space."""
    match = _SPACE.match(text, at)
    return at if match is None else match.end()
