"""The studies by their names."""

from __future__ import annotations

from hypereyes_jax.study.comparisons import Build, ablations, depth, paradigms, reward
from hypereyes_jax.study.sweeps import budget, distractors, seeds
from hypereyes_jax.study.transfer import transfer
from hypereyes_jax.study.types import StudyName

STUDIES: dict[StudyName, Build] = {
    "budget": budget,
    "seeds": seeds,
    "paradigms": paradigms,
    "distractors": distractors,
    "ablations": ablations,
    "reward": reward,
    "depth": depth,
    "transfer": transfer,
}
