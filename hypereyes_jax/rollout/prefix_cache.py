"""Prompts that slots given back still hold: the next rollout of a prompt that begins alike need not read it again.

Without this, whether the samples of a prompt share its prefill would depend on whether one of them happens to be under
way when the next begins; and every rollout would read the system prompt that all of them have.
"""

from __future__ import annotations

from typing import NamedTuple

from hypereyes_jax.rollout.sequence import Prompt


class CachedPrefix(NamedTuple):
    """The prompt that a free slot still holds."""

    prompt: Prompt
    epoch: int  # of the weights that wrote it


class PrefixCache:
    """What each free slot still holds. Host bookkeeping only."""

    def __init__(self) -> None:
        self._of: dict[int, CachedPrefix] = {}

    def note(self, slot: int, prefix: CachedPrefix) -> None:
        """The slot was given back with this prompt in it."""
        self._of[slot] = prefix

    def find(self, prompt: Prompt, epoch: int, whole: bool = False) -> tuple[int, int] | None:
        """(slot, positions): where most of the prompt is, written by the weights in use; None if none of it is.

        Args:
          whole: only where all of it is.
        """
        best: tuple[int, int] | None = None
        for slot, prefix in self._of.items():
            count = prompt.shared(prefix.prompt) if prefix.epoch == epoch else 0
            if whole and count < prompt.positions:
                continue
            if count > (0 if best is None else best[1]):
                best = slot, count
        return best

    def forget(self, slot: int) -> None:
        """The slot has a new owner."""
        self._of.pop(slot, None)
