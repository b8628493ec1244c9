"""The conditions of an evaluation: what is the same for everything that a policy is asked."""

from __future__ import annotations

from dataclasses import dataclass

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig


@dataclass(frozen=True)
class EvaluationConditions:
    """What is searched, by which rules, and who judges."""

    search: SearchConfig
    judge: JudgeConfig  # each benchmark has a rule of its own for judges; one that is not the default holds for all
    episode: EpisodeConfig
    sampling: SamplingConfig
    pixels: tuple[int, int]  # the smallest and the largest area of an image
    seed: int  # of the sampling
    distractors: int = 0  # results of other searches that are mixed into each search of a benchmark in the miniature's
    # world
    distractor_seed: int = 0
