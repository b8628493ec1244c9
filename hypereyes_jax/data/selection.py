"""Which questions are worth RL: those the policy fails at first and can solve within a few tries."""

from __future__ import annotations

from collections.abc import Sequence

from hypereyes_jax.env.types import EpisodeResult


def initial_reference(results: Sequence[EpisodeResult], correct: Sequence[bool]) -> tuple[int, int] | None:
    """(rounds, invocations) to start TRACE from, or None if the question is left out.

    A question is kept if its first try fails and a later one succeeds (pass@1 fails, pass@k succeeds; the paper's k is
    5). The reference is the success with the fewest rounds, then the fewest invocations, among those that used a tool:
    the paper takes it from a success and does not say from which.
    """
    if correct[0]:
        return None
    successes = [(r.rounds, r.invocations) for r, ok in zip(results, correct, strict=True) if ok and r.rounds > 0]
    return min(successes, default=None)
