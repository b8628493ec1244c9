"""When failures of the world are no longer occasional: a run that masks most of its rollouts learns nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hypereyes_jax.env.types import EpisodeResult, StopReason
from hypereyes_jax.errors import UserError

# Seconds and counts, which differ from failure to failure; addresses, ports and statuses say what failed.
_NUMBER = re.compile(r"(?<![\w.:/-])(?<!HTTP )\d+(?:\.\d+)?(?![\w:]|\.\d)")


class SystematicFailure(UserError):
    """Most of what a run asks of the world fails. Its message counts the failures by their reasons."""


@dataclass(frozen=True)
class OutageLimits:
    """How much of a run may fail for reasons that are not the policy's."""

    share: float = 0.5
    """Share of a step's rollouts that search or judge may fail for; a larger share ends the run. 1 sets no limit."""
    in_a_row: int = 64
    """Number of consecutive rollouts, across steps, that search or judge may fail for before the run ends."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.in_a_row < 1:
            raise UserError("outage limits: share must be above 0 and at most 1, and in_a_row must be at least 1.")


class OutageWatch:
    """Counts the masked rollouts of a run, step by step."""

    def __init__(self, limits: OutageLimits | None = None):
        self._limits = limits or OutageLimits()
        self._row = 0
        self._row_reasons: Counter[str] = Counter()

    def check(self, reasons: Sequence[str]) -> None:
        """Takes in a step.

        Args:
          reasons: one a rollout, as `mask_reason` gives it: "" = it counts.

        Raises:
          SystematicFailure: more than the allowed share of the step was masked, or too many rollouts in a row were.
        """
        for reason in reasons:
            if not reason:
                self._row = 0
                self._row_reasons.clear()
                continue
            self._row += 1
            self._row_reasons[reason] += 1
            if self._row >= self._limits.in_a_row:
                raise failure_in_words(f"the last {self._row} rollouts all failed", self._row_reasons)
        masked = Counter(reason for reason in reasons if reason)
        if masked.total() > self._limits.share * len(reasons):
            raise failure_in_words(f"{masked.total()} of a step's {len(reasons)} rollouts failed", masked)


def mask_reason(result: EpisodeResult, verdict: bool | None) -> str:
    """Why a rollout counts nowhere: what failed, without the numbers that differ from one failure to the next.

    "" where it counts. `verdict` is the judge's on its answer, if it has one.
    """
    if result.stop is StopReason.INFRASTRUCTURE:
        return _NUMBER.sub("N", result.why)[:200] or "the world failed"
    return "the judge gave no verdict" if result.answer is not None and verdict is None else ""


def failure_in_words(what: str, reasons: Counter[str]) -> SystematicFailure:
    """The error that says what failed, and how often for which reason, most frequent first."""
    counts = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
    return SystematicFailure(
        f"{what}, for no fault of the policy: {counts}. Mend what failed and run the same command again; what was "
        "done before is kept."
    )
