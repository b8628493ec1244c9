"""Prompts that slots given back still hold: the next rollout of the same prompt takes such a slot, and reads nothing.

Without this, whether the samples of a prompt share its prefill would depend on whether one of them happens to be under
way when the next begins.
"""

from __future__ import annotations

from typing import NamedTuple


class Leftover(NamedTuple):
    key: bytes  # of the prompt
    positions: int  # of it in the cache
    epoch: int  # of the weights that wrote them


class Leftovers:
    """What each free slot still holds. Host bookkeeping only."""

    def __init__(self) -> None:
        self._of: dict[int, Leftover] = {}

    def note(self, slot: int, left: Leftover) -> None:
        """The slot was given back with this prompt in it."""
        self._of[slot] = left

    def find(self, key: bytes, epoch: int) -> tuple[int, int] | None:
        """(slot, positions) of a free slot that holds the prompt, written by the weights in use; None if none does."""
        for slot, left in self._of.items():
            if left.key == key and left.epoch == epoch:
                return slot, left.positions
        return None

    def forget(self, slot: int) -> None:
        """The slot has a new owner."""
        self._of.pop(slot, None)
