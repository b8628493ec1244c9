"""Which questions are worth RL: those the policy fails at first and can solve within a few tries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypereyes_jax.env.types import EpisodeResult, StopReason


def initial_reference(results: Sequence[EpisodeResult], correct: Sequence[bool | None]) -> tuple[int, int] | None:
    """(rounds, invocations) to start TRACE from, or None if the question is left out.

    A question is kept if its first try fails and a later one succeeds (pass@1 fails, pass@k succeeds; the paper's k is
    5). The reference is the success with the fewest rounds, then the fewest invocations, among those that used a tool:
    the paper takes it from a success and does not say from which.

    Tries that the world failed, and those that the judge could not be asked about (None), were none of the policy's:
    they are left out, and the first try is the first of the others.
    """
    tries = _own(zip(results, correct, strict=True))
    if not tries or tries[0][1]:
        return None
    successes = [(result.rounds, result.invocations) for result, ok in tries if ok and result.rounds > 0]
    return min(successes, default=None)


def settled(tries: Iterable[tuple[EpisodeResult, bool | None]]) -> bool:
    """Whether no further try could bring the question in: the first one succeeded."""
    own = _own(tries)
    return bool(own) and bool(own[0][1])


def _own(tries: Iterable[tuple[EpisodeResult, bool | None]]) -> list[tuple[EpisodeResult, bool]]:
    """The policy's: not those that the world failed or the judge could not be asked about."""
    return [(result, ok) for result, ok in tries if ok is not None and result.stop is not StopReason.INFRASTRUCTURE]
