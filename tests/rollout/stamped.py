"""Trajectories whose tokens carry given versions of the weights."""

import numpy as np

from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout import Trajectory


def stamped_trajectory(*versions):
    """One sampled chunk for each list of stamps, after a prompt."""
    chunks = [ContextChunk(np.zeros(1, np.int32))]
    for stamps in versions:
        logp = np.zeros(len(stamps), np.float32)
        chunks.append(SampledChunk(np.zeros(len(stamps), np.int32), logp, logp, np.array(stamps, np.int32)))
    return Trajectory(tuple(chunks), result=None)
