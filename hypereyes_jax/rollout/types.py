"""The nouns of rollout generation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from hypereyes_jax.env.types import EpisodeResult
from hypereyes_jax.processing.types import Chunk, ContextChunk, SampledChunk

SwapMode = Literal["abort", "finish", "continue"]  # see `Scheduler.swap`


@dataclass
class SchedulerCounts:
    """What happened since the scheduler was made. Times in seconds."""

    device_seconds: float = 0.0
    starved_seconds: float = 0.0  # the device stood still although a session was ready, or one became so
    waiting_seconds: float = 0.0  # the device stood still because every session was searching
    evictions: int = 0
    preemptions: int = 0  # turns that had to wait in their midst, since pages lacked
    restored: int = 0  # evicted sequences that came back from host memory
    reread_tokens: int = 0  # tokens read again after an eviction
    stale: int = 0
    aborted_turns: int = 0  # sampled anew with new weights


class TurnEnd(StrEnum):
    """Why sampling of a turn ended."""

    STOP = "stop"  # a stop token
    LENGTH = "length"  # the turn's token limit
    CONTEXT = "context"  # the slot is full, or what was to be read does not fit it
    UNREADABLE = "unreadable"  # an image of the context can't be used (a sliver of a crop, say)
    STALE = "stale"  # the weights have moved on too far since the sequence began


@dataclass(frozen=True)
class Turn:
    """What an engine answers to a context chunk. `sampled` is None where nothing was sampled."""

    sampled: SampledChunk | None
    end: TurnEnd
    why: str = ""
    routes: np.ndarray | None = None  # as `Trajectory.routes`, of all tokens up to the last sampled one


@dataclass(frozen=True)
class Trajectory:
    """One finished rollout: the exact token record, and what happened in the environment."""

    chunks: tuple[Chunk, ...]  # ContextChunk (prompt), SampledChunk, ContextChunk (observation), SampledChunk, ...
    result: EpisodeResult
    seconds: float = 0.0  # wall time from admission to the end
    # uint8 [tokens - 1, layers, experts a token]: where the sampler's mixtures sent the tokens, visual ones counted one
    # by one. The last token was sampled and not read. None where it was not recorded.
    routes: np.ndarray | None = None

    @property
    def sampled_tokens(self) -> int:
        return sum(len(c.tokens) for c in self.chunks if isinstance(c, SampledChunk))

    @property
    def context_tokens(self) -> int:
        return sum(len(c.tokens) for c in self.chunks if isinstance(c, ContextChunk))
