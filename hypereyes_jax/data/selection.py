"""Which questions are worth RL: those the policy fails at first and can solve within a few tries."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from hypereyes_jax.env.types import EpisodeResult, StopReason

FirstReference = Literal["cheapest", "first"]


class Try(NamedTuple):
    """What the selection keeps of an episode. There are thousands, and an episode holds its images."""

    rounds: int
    invocations: int
    correct: bool | None  # None: nothing to learn of the policy, because the world or the judge failed

    @classmethod
    def of(cls, result: EpisodeResult, correct: bool | None) -> Try:
        """`correct`: the verdict on its answer; None if the judge gave no verdict."""
        return cls(result.rounds, result.invocations, None if result.stop is StopReason.INFRASTRUCTURE else correct)


class LeftOut(StrEnum):
    """Why a question is not trained on."""

    RIGHT_AT_ONCE = "the first try is right"
    NEVER_RIGHT = "no try is right"
    NO_SEARCH = "right without a search only"
    UNDECIDED = "searches or the judge failed, so that not all of its tries could be made"


def initial_reference(tries: Sequence[Try | None], choice: FirstReference = "cheapest") -> tuple[int, int] | LeftOut:
    """(rounds, invocations) to start TRACE from, or why the question is left out.

    A question is kept if its first try fails and a later one succeeds (pass@1 fails, pass@k succeeds; the paper's k is
    5). The reference is the success with the fewest rounds, then the fewest invocations, among those that searched: the
    paper takes it from a success and does not say from which; with the choice "first" it is the earliest success.

    Args:
      tries: k of them, the first one first; None, or one whose verdict is None, tells nothing of the policy.
    """
    first, *later = tries
    if not is_informative(first):
        return LeftOut.UNDECIDED
    if is_settled(tries):
        return LeftOut.RIGHT_AT_ONCE
    right = [each for each in later if each is not None and each.correct]
    costs = [(each.rounds, each.invocations) for each in right if each.rounds > 0 and each.invocations > 0]
    if costs:
        return min(costs) if choice == "cheapest" else costs[0]
    if not all(map(is_informative, later)):
        return LeftOut.UNDECIDED
    return LeftOut.NO_SEARCH if right else LeftOut.NEVER_RIGHT


def is_settled(tries: Sequence[Try | None]) -> bool:
    """Whether no further try could bring the question in: the first one succeeded."""
    return bool(tries) and tries[0] is not None and tries[0].correct is True


def is_informative(each: Try | None) -> bool:
    """Whether a try was made and tells something of the policy."""
    return each is not None and each.correct is not None
