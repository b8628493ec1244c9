"""Episodes for tests of rollouts: any text is a search that takes a given time and shows an image."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
from PIL import Image

from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Part, Question, SearchHit, StopReason
from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout import DecodeRequest

SETTINGS = EngineConfig(
    slots=4,
    context=192,
    page_tokens=16,
    max_steps=4,
    decode_rows=(1,),
    extend_rows=(2,),
    extend_tokens=(32,),
    view_lengths=(96,),
    image_shapes=((2, 64),),
    visual_tokens=64,
    min_pixels=16 * 16 * 4,
    max_pixels=16 * 16 * 16,
)
SAMPLING = SamplingConfig(temperature=0.8, top_p=0.95, max_new_tokens=6)
TWO_TURNS_BUDGETS = (SETTINGS.max_steps, 1, SETTINGS.max_steps - 1)


def tokens(trajectory):
    """What was sampled in each turn of a trajectory."""
    return [chunk.tokens.tolist() for chunk in trajectory.chunks if isinstance(chunk, SampledChunk)]


def two_turns(engine, sampling):
    """What three rollouts sample, whose prompts differ in length and whose budgets end at different steps."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(20, 280, n).astype(np.int32) for n in (30, 3, 9)]
    sequences = [engine.new_sequence(seed) for seed in range(len(prompts))]
    parts = []
    for sequence in sequences:
        assert engine.acquire(sequence)
    for turn in range(2):
        for sequence, prompt in zip(sequences, prompts, strict=True):
            sequence.append_context(engine.prepare(ContextChunk(prompt + turn, ())))
        while unread := [sequence for sequence in sequences if sequence.unread]:
            engine.extend(unread)
        both = zip(sequences, TWO_TURNS_BUDGETS, strict=True)
        parts += engine.decode([DecodeRequest(sequence, sampling, (), budget) for sequence, budget in both])
    return parts


class Nowhere:
    """A backend that is never asked."""

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        raise AssertionError("not expected")

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        raise AssertionError("not expected")


class PacedEpisode(Episode):
    """Takes any text for a search that lasts `seconds` and shows an image; answered after `turns` turns."""

    def __init__(self, question: Question, turns: int = 3, seconds: float = 0.0, with_image: bool = True):
        super().__init__(question, Nowhere(), EpisodeConfig(system="search"))
        self.turns, self.seconds, self.with_image = turns, seconds, with_image
        self.texts: list[tuple[str, bool]] = []

    async def step(self, text: str, truncated: bool = False) -> tuple[Part, ...] | None:
        self.texts.append((text, truncated))
        if len(self.texts) == self.turns:
            self.end(StopReason.ANSWERED)
            return None
        await asyncio.sleep(self.seconds)
        crop = picture(self.question.id, len(self.texts))
        return (crop, "found it") if self.with_image else ("found it",)


def picture(*seed: object, size: tuple[int, int] = (40, 56)) -> Image.Image:
    digest = hashlib.blake2b(repr(seed).encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest))
    return Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))


def question(number: int, image: bool = True) -> Question:
    images = (picture(number),) if image else ()
    return Question(str(number), f"what is number {number}?", images, ("it",))
