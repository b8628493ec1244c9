"""Which questions are worth RL: those the policy fails at first and can solve within a few tries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hypereyes_jax.env.types import EpisodeResult, StopReason


class Try(NamedTuple):
    """What the selection keeps of an episode. There are thousands, and an episode holds its images."""

    rounds: int
    invocations: int
    correct: bool | None  # None: nothing to learn of the policy, because the world or the judge failed

    @classmethod
    def of(cls, result: EpisodeResult, correct: bool | None) -> Try:
        """`correct`: the verdict on its answer; None if the judge could not be asked."""
        return cls(result.rounds, result.invocations, None if result.stop is StopReason.INFRASTRUCTURE else correct)


def initial_reference(tries: Sequence[Try]) -> tuple[int, int] | None:
    """(rounds, invocations) to start TRACE from, or None if the question is left out.

    A question is kept if its first try fails and a later one succeeds (pass@1 fails, pass@k succeeds; the paper's k is
    5). The reference is the success with the fewest rounds, then the fewest invocations, among those that used a tool:
    the paper takes it from a success and does not say from which.

    Tries that tell nothing of the policy are left out, and the first try is the first of the others.
    """
    own = _own(tries)
    if not own or own[0].correct:
        return None
    return min(((each.rounds, each.invocations) for each in own if each.correct and each.rounds > 0), default=None)


def settled(tries: Iterable[Try]) -> bool:
    """Whether no further try could bring the question in: the first one succeeded."""
    own = _own(tries)
    return bool(own) and bool(own[0].correct)


def _own(tries: Iterable[Try]) -> list[Try]:
    return [each for each in tries if each.correct is not None]
