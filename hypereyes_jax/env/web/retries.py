"""When a failed request is sent again: one rule for search, judges, chat models and generation servers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

_DAY = 86_400.0


@dataclass(frozen=True)
class RetryPolicy:
    """Attempts and waits are the authors' published client's.

    An error is tried again if it has a true `transient`; its `retry_after`, if any, is the wait in seconds that the
    service asked for.
    """

    attempts: int = 3  # that fail without the service saying when to come back
    backoff: tuple[float, float] = (0.5, 3.0)  # before retry n: uniform(low * n, high * n) seconds
    retry_after_cap: float = 60.0  # seconds; a service may ask for a longer wait than the backoff, up to this
    patience: float = 600.0  # seconds of waits in all, after which a service that only asks to wait counts as failed


def retrying(policy: RetryPolicy) -> AsyncRetrying:
    """Calls for one request until it succeeds, fails for good, or fails too often. The last failure is raised."""
    return AsyncRetrying(
        stop=_Stop(policy),
        wait=lambda state: _wait(policy, state),
        retry=retry_if_exception(lambda error: bool(getattr(error, "transient", False))),
        reraise=True,
    )


class _Stop:
    """Attempts that a service answered with a time to wait are not counted, up to the policy's patience."""

    def __init__(self, policy: RetryPolicy):
        self._policy, self._failures = policy, 0

    def __call__(self, state: RetryCallState) -> bool:
        self._failures += _requested_wait(state) is None
        return self._failures >= self._policy.attempts or state.idle_for >= self._policy.patience


def _wait(policy: RetryPolicy, state: RetryCallState) -> float:
    low, high = policy.backoff
    requested = _requested_wait(state)
    pause = random.uniform(low, high) * min(state.attempt_number, policy.attempts)
    return max(pause, min(requested or 0.0, policy.retry_after_cap))


def _requested_wait(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return getattr(error, "retry_after", None)


def read_retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks to wait, from either of its forms: seconds, or a date of HTTP.

    None where there is none that can be read, or one of more than a day.
    """
    text = (header or "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):  # no date, or one with a number that no date has
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    return seconds if 0 <= seconds < _DAY else None
