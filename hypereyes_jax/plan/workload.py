"""What a step's rollouts are taken to be like, where nothing has been rolled out yet."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Workload:
    """Rollouts of a step. Their lengths are log-normal; searches of a turn run at once."""

    prompt_tokens: float = 2_000.0
    """Number of tokens of a question with its tools and its image; those of a group are read once."""
    sampled_tokens: float = 1_800.0
    """Number of tokens of all turns of a rollout, on average."""
    observation_tokens: float = 6_200.0
    """Number of tokens of all results and crops of a rollout, on average."""
    turns: float = 3.0
    """Number of turns of a rollout, the answer included; the paper's agents take 2.0 to 3.1."""
    images: float = 6.0
    """Number of images of a rollout: the question's, its crops and those found."""
    tokens_a_step: float = 1.0
    """Mean number of tokens that a decode step gives a rollout where --sizes.draft-tokens has it verify guesses;
    1.0 counts none of them as right."""
    spread: float = 0.5
    """Standard deviation of the logarithm of a length."""
    search_seconds: float = 3.0
    """Seconds from the end of a turn until all its searches are answered."""

    @property
    def tokens(self) -> float:
        """Tokens of a trajectory, on average."""
        return self.prompt_tokens + self.sampled_tokens + self.observation_tokens

    @property
    def cached_tokens(self) -> float:
        """Tokens that a rollout has in the cache while it samples, on average: half of what follows its prompt."""
        return self.prompt_tokens + (self.sampled_tokens + self.observation_tokens) / 2

    def within(self, context: int) -> Workload:
        """The same with lengths in proportion, if half of a row does not hold an average trajectory."""
        share = min(1.0, context / 2 / self.tokens)
        return replace(
            self,
            prompt_tokens=self.prompt_tokens * share,
            sampled_tokens=self.sampled_tokens * share,
            observation_tokens=self.observation_tokens * share,
        )


def log_normal_lengths(count: int, mean: float, spread: float, seed: int = 0) -> np.ndarray:
    """float64 [count]: evenly spaced quantiles of a log-normal distribution, scaled to the mean, in random order."""
    normal = NormalDist()
    lengths = np.array([math.exp(spread * normal.inv_cdf((i + 0.5) / count)) for i in range(count)])
    return np.random.default_rng(seed).permutation(lengths * mean / lengths.mean())
