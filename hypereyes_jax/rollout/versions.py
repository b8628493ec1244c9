"""Which weights sampled the tokens of a rollout: a new version may come while it is under way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout.types import Trajectory


def version_figures(trajectories: Sequence[Trajectory], version: int) -> dict[str, float]:
    """How far the weights that sampled lie behind those that are trained.

    Args:
      version: of the weights that the step updates.

    Returns:
      staleness: versions, the mean over sampled tokens; staleness_max: of the oldest token; partial_rollouts: share of
      the rollouts that several versions sampled.
    """
    stamps = [
        np.concatenate([chunk.version for chunk in trajectory.chunks if isinstance(chunk, SampledChunk)])
        for trajectory in trajectories
        if trajectory.sampled_tokens
    ]
    if not stamps:
        return {"staleness": 0.0, "staleness_max": 0.0, "partial_rollouts": 0.0}
    behind = version - np.concatenate(stamps)
    return {
        "staleness": float(behind.mean()),
        "staleness_max": float(behind.max()),
        "partial_rollouts": float(np.mean([stamp.min() != stamp.max() for stamp in stamps])),
    }


def version_spans(trajectory: Trajectory) -> list[tuple[int, int]]:
    """(version of the weights, tokens that it sampled) along a rollout: one pair where no weights came in between."""
    spans: list[tuple[int, int]] = []
    for chunk in trajectory.chunks:
        if isinstance(chunk, SampledChunk):
            for version in chunk.version.tolist():
                count = spans.pop()[1] if spans and spans[-1][0] == version else 0
                spans.append((version, count + 1))
    return spans
