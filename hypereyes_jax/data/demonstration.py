"""A demonstration: the messages of one episode as text and images, from which SFT data are made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hypereyes_jax.env.types import EpisodeResult, Part
from hypereyes_jax.processing.chat import ChatFormat
from hypereyes_jax.processing.types import Chunk, SampledChunk


@dataclass(frozen=True)
class Example:
    """A conversation to learn from: user messages, and the turn that answers each."""

    id: str
    system: str
    observations: tuple[tuple[Part, ...], ...]  # the prompt, then one message a tool round
    turns: tuple[str, ...]

    def chunks(self, chat: ChatFormat) -> tuple[Chunk, ...]:
        """The token record, as if the turns had been sampled (with log-probs of zero)."""
        out: list[Chunk] = []
        for number, (parts, text) in enumerate(zip(self.observations, self.turns, strict=True)):
            out.append(chat.prompt(self.system, parts) if number == 0 else chat.observation(parts))
            tokens = np.asarray(chat.turn(text), np.int32)
            zeros = np.zeros(len(tokens), np.float32)
            out.append(SampledChunk(tokens, zeros, zeros, np.zeros(len(tokens), np.int32)))
        return tuple(out)


@dataclass(frozen=True)
class Demonstration:
    """An example together with what happened in the environment."""

    example: Example
    result: EpisodeResult


def examples_hash(examples: Iterable[Example]) -> str:
    """sha256 over texts and pixels."""
    digest = hashlib.sha256()
    for example in examples:
        for parts in example.observations:
            for part in parts:
                digest.update(part.encode() if isinstance(part, str) else part.tobytes())
        for turn in example.turns:
            digest.update(turn.encode())
    return digest.hexdigest()
