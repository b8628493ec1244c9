"""Versions of the weights along a rollout, and how far they lie behind."""

import numpy as np

from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.rollout.versions import version_figures, version_spans


def trajectory(*versions):
    """One sampled chunk for each list of stamps, after a prompt."""
    chunks = [ContextChunk(np.zeros(1, np.int32))]
    for stamps in versions:
        logp = np.zeros(len(stamps), np.float32)
        chunks.append(SampledChunk(np.zeros(len(stamps), np.int32), logp, logp, np.array(stamps, np.int32)))
    return Trajectory(tuple(chunks), result=None)


def test_staleness_is_counted_over_tokens_and_partial_rollouts_over_rollouts():
    figures = version_figures([trajectory([3, 3], [3, 4]), trajectory([5, 5, 5, 5])], 5)
    assert figures == {"staleness": (2 + 2 + 2 + 1) / 8, "staleness_max": 2.0, "partial_rollouts": 0.5}
    assert version_figures([trajectory()], 5)["staleness"] == 0


def test_the_versions_along_a_rollout_are_told_by_tokens():
    assert version_spans(trajectory([3, 3], [3, 4], [4])) == [(3, 3), (4, 2)]
