"""A demonstration: the messages of one episode as text and images, from which SFT data are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hypereyes_jax.env.types import EpisodeResult, Part
from hypereyes_jax.processing.chat import ChatFormat
from hypereyes_jax.processing.types import Chunk, SampledChunk


@dataclass(frozen=True)
class Demonstration:
    system: str
    observations: tuple[tuple[Part, ...], ...]  # user messages: the prompt, then one a tool round
    result: EpisodeResult

    def chunks(self, chat: ChatFormat) -> tuple[Chunk, ...]:
        """The token record, as if the searcher's turns had been sampled (with log-probs of zero)."""
        out: list[Chunk] = []
        for number, parts in enumerate(self.observations):
            out.append(chat.prompt(self.system, parts) if number == 0 else chat.observation(parts))
            tokens = np.asarray(chat.turn(self.result.turns[number].text), np.int32)
            zeros = np.zeros(len(tokens), np.float32)
            out.append(SampledChunk(tokens, zeros, zeros, np.zeros(len(tokens), np.int32)))
        return tuple(out)
