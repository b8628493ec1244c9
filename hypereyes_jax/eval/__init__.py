"""Benchmarks and reports: accuracy, rounds and cost of judged trajectories. Knows nothing of training."""

from hypereyes_jax.eval.benchmark import Evaluation, evaluate
from hypereyes_jax.eval.metrics import (
    Judged,
    StageSummary,
    cost_aware_score,
    summarise,
    trajectory_tokens,
    wilson_interval,
)

__all__ = [
    "Evaluation",
    "Judged",
    "StageSummary",
    "cost_aware_score",
    "evaluate",
    "summarise",
    "trajectory_tokens",
    "wilson_interval",
]
