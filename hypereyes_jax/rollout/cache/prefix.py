"""Prompts that are in the cache already: the next rollout of a prompt that begins alike need not read it again.

Without this, whether the samples of a prompt share its prefill would depend on whether one of them happens to be under
way when the next begins; and every rollout would read the system prompt that all of them have.
"""

from __future__ import annotations

from typing import NamedTuple

from hypereyes_jax.rollout.engine import KeptPrefix
from hypereyes_jax.rollout.sequence import Prompt


class Beginning(NamedTuple):
    """How much of a prompt is in the cache."""

    kept: KeptPrefix
    positions: int

    def positions_in(self, part: int) -> int:
        """How many positions a slot of a part of the replica's devices can hold together with it, not as a copy."""
        return self.positions if self.kept.part == part else 0


class PrefixCache:
    """The prompts in the cache, written by the weights in use. Host bookkeeping only.

    Args:
      limit: prompts that are kept at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._of: dict[tuple[int, bytes], tuple[Prompt, KeptPrefix]] = {}  # the one used last is the last

    def holds(self, part: int, prompt: Prompt) -> bool:
        """Whether a part of the replica's devices has all of a prompt."""
        return (part, prompt.key) in self._of

    def note(self, prompt: Prompt, kept: KeptPrefix) -> list[KeptPrefix]:
        """A prompt is kept. Returns those that are kept no more."""
        self._of[kept.part, prompt.key] = prompt, kept
        return [self._of.pop(next(iter(self._of)))[1] for _ in range(len(self._of) - self._limit)]

    def find(self, prompt: Prompt, whole: bool = False) -> Beginning | None:
        """The longest beginning of a prompt; None if there is none.

        Args:
          whole: only where all of it is.
        """
        counts = {key: prompt.shared(other) for key, (other, _) in self._of.items()}
        best = max(counts, key=counts.__getitem__, default=None)
        if best is None or counts[best] < max(1, prompt.positions if whole else 1):
            return None
        self._of[best] = self._of.pop(best)
        return Beginning(self._of[best][1], counts[best])

    def of_part(self, part: int) -> list[KeptPrefix]:
        """The prompts of a part, the one used longest ago first."""
        return [kept for _, kept in self._of.values() if kept.part == part]

    def drop(self, dropped: KeptPrefix) -> None:
        """A prompt is kept no more."""
        self._of = {key: entry for key, entry in self._of.items() if entry[1] is not dropped}

    def clear(self) -> list[KeptPrefix]:
        """All prompts, kept no more."""
        kept = [kept for _, kept in self._of.values()]
        self._of.clear()
        return kept
