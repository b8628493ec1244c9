"""What a set of judged trajectories comes to: accuracy with its interval, the cost of search, and why episodes ended.

Infrastructure failures and judge outages are counted apart and enter no mean: the world's failure is not the policy's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from PIL import Image

from hypereyes_jax.env.types import StopReason
from hypereyes_jax.rollout.types import Trajectory

VisualTokens = Callable[["Image.Image"], int]

_Z_95 = 1.959963984540054  # 97.5th percentile of the standard normal


def cost_aware_score(accuracy: float, kilo_tokens: float, rounds: float) -> float:
    """Cost-aware score, `100 Acc^2 / (N_tok + 2 N_tool + 1)` (arXiv 2605.07177; the authors' published definition).

    Args:
      accuracy: share of right answers, 0 to 1. (A percentage would inflate the score 10,000 times.)
      kilo_tokens: mean tokens a trajectory, in thousands.
      rounds: mean sequential tool rounds a trajectory.

    Raises:
      ValueError: accuracy outside [0, 1], or a negative cost.
    """
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"accuracy is a share between 0 and 1, got {accuracy}")
    if kilo_tokens < 0 or rounds < 0:
        raise ValueError(f"costs can't be negative, got kilo_tokens={kilo_tokens}, rounds={rounds}")
    return 100.0 * accuracy**2 / (kilo_tokens + 2.0 * rounds + 1.0)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share (Wilson 1927). `n == 0` knows nothing: (0, 1).

    Unlike the normal approximation it stays within [0, 1] and is honest near 0 % and 100 %, where benchmarks live.

    Raises:
      ValueError: unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n, got successes={successes}, n={n}")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    spread = _Z_95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # at 0 and n the bound is exactly 0 or 1; rounding would leave 1e-17 beside it
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def trajectory_tokens(trajectory: Trajectory, visual_tokens: VisualTokens) -> int:
    """N_tok of one trajectory: every token the model read or wrote, each counted once.

    Prompt, observations and sampled turns all count, and an image counts with all its visual tokens. Nothing counts
    again for later turns: the cache keeps a prefix, so it is processed once. (The published definition gives the
    formula and the unit, no more. An engine that reads the prefix again each turn pays more than this.)

    Args:
      visual_tokens: number of visual tokens an image takes in this model; replaces its one placeholder token.
    """
    images = [image for chunk in trajectory.chunks for image in getattr(chunk, "images", ())]
    return trajectory.sampled_tokens + trajectory.context_tokens + sum(visual_tokens(image) - 1 for image in images)


@dataclass(frozen=True)
class Judged:
    """A trajectory and what became of it. Exactly one of `correct` and `masked` says something."""

    trajectory: Trajectory
    correct: bool | None  # None = not scored
    masked: str  # "" | "infrastructure" | "judge": why it is not scored
    tokens: int  # see `trajectory_tokens`


@dataclass(frozen=True)
class StageSummary:
    """One row of the headline table. Means are over the `n` scored trajectories, or 0 where there are none."""

    n: int
    accuracy: float  # share, 0 to 1
    accuracy_low: float  # 95 % Wilson interval
    accuracy_high: float
    rounds: float  # t_c, tool rounds a trajectory
    invocations: float  # t_s, atomic searches a trajectory
    kilo_tokens: float  # see `trajectory_tokens`, in thousands
    kilo_tokens_sampled: float  # the part the model wrote
    cas: float  # of the means above
    seconds: float  # wall time of a trajectory from admission to its end, without compilation
    wall_seconds: float  # wall time of the whole evaluation, compilation included
    masked_infrastructure: int  # not scored: the search failed, not the policy
    masked_judge: int  # not scored: the judge could not be reached
    stops: dict[str, int]  # StopReason -> scored trajectories that ended so
    wrong_by_stop: dict[str, int]  # the same, of the wrong ones only
    malformed_calls: int  # tool calls that could not be used
    failed_searches: int  # crops or searches that came back with an error
    rounds_histogram: dict[str, int]  # rounds -> trajectories

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(judged: Sequence[Judged], wall_seconds: float = 0.0) -> StageSummary:
    """Means, interval, CAS and failure kinds of judged trajectories."""
    verdicts = [j for j in judged if j.correct is not None]
    n = len(verdicts)
    right = sum(bool(j.correct) for j in verdicts)
    results = [j.trajectory.result for j in verdicts]

    def mean(values: Sequence[float]) -> float:
        return fmean(values) if values else 0.0

    accuracy = right / n if n else 0.0
    low, high = wilson_interval(right, n)
    rounds = mean([r.rounds for r in results])
    kilo_tokens = mean([j.tokens / 1000 for j in verdicts])
    turns = [turn for r in results for turn in r.turns]
    return StageSummary(
        n=n,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        rounds=rounds,
        invocations=mean([r.invocations for r in results]),
        kilo_tokens=kilo_tokens,
        kilo_tokens_sampled=mean([j.trajectory.sampled_tokens / 1000 for j in verdicts]),
        cas=cost_aware_score(accuracy, kilo_tokens, rounds),
        seconds=mean([j.trajectory.seconds for j in verdicts]),
        wall_seconds=wall_seconds,
        masked_infrastructure=sum(j.masked == "infrastructure" for j in judged),
        masked_judge=sum(j.masked == "judge" for j in judged),
        stops=_count(j.trajectory.result.stop for j in verdicts),
        wrong_by_stop=_count(j.trajectory.result.stop for j in verdicts if not j.correct),
        malformed_calls=sum(bool(turn.malformed) for turn in turns),
        failed_searches=sum(bool(call.error) for turn in turns for call in turn.invocations),
        rounds_histogram={str(k): v for k, v in sorted(Counter(r.rounds for r in results).items())},
    )


def _count(stops: Iterable[StopReason]) -> dict[str, int]:
    counts = Counter(stops)
    return {str(stop): counts[stop] for stop in StopReason if counts[stop]}
