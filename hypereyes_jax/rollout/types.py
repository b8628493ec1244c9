"""The nouns of rollout generation."""

from __future__ import annotations

from dataclasses import dataclass

from hypereyes_jax.env.types import EpisodeResult
from hypereyes_jax.processing.types import Chunk, ContextChunk, SampledChunk


@dataclass(frozen=True)
class SamplingConfig:
    temperature: float = 0.8  # the paper's rollouts
    top_p: float = 0.95
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    max_new_tokens: int = 1524  # a turn


@dataclass(frozen=True)
class Trajectory:
    """One finished rollout: the exact token record, and what happened in the environment."""

    chunks: tuple[Chunk, ...]  # ContextChunk (prompt), SampledChunk, ContextChunk (observation), SampledChunk, ...
    result: EpisodeResult
    seconds: float = 0.0  # wall time from admission to the end

    @property
    def sampled_tokens(self) -> int:
        return sum(len(c.tokens) for c in self.chunks if isinstance(c, SampledChunk))

    @property
    def context_tokens(self) -> int:
        return sum(len(c.tokens) for c in self.chunks if isinstance(c, ContextChunk))
