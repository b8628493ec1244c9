"""A small model's configuration and random trajectories, for the learner's tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.learner.packing import TrainingSample
from hypereyes_jax.processing.types import Chunk, ContextChunk, SampledChunk
from tests import small_models

CONFIG = Qwen3VLConfig(
    text=replace(
        small_models.TEXT,
        vocab_size=96,
        intermediate_size=64,
        num_hidden_layers=3,
        head_dim=16,
        mrope_section=(4, 2, 2),
        initializer_range=0.02,
    ),
    vision=replace(
        small_models.VISION,
        depth=2,
        hidden_size=32,
        intermediate_size=64,
        patch_size=4,
        deepstack_visual_indexes=(0, 1),
        initializer_range=0.02,
    ),
    **small_models.IDS,
)
PACK = PackConfig(row_lengths=(64,), rows=2, min_pixels=64, max_pixels=64 * 64)


def image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def context(rng: np.random.Generator, n: int, images: int = 0) -> ContextChunk:
    tokens = [int(t) for t in rng.integers(0, 80, n)]
    for k in range(images):
        tokens[2 * k + 1 : 2 * k + 1] = [92, 90, 93]
    sizes = rng.choice([8, 16, 24], (images, 2))
    return ContextChunk(np.array(tokens, np.int32), tuple(image(rng, int(w), int(h)) for w, h in sizes))


def sampled(rng: np.random.Generator, n: int) -> SampledChunk:
    logp = -rng.uniform(0.5, 5.0, n).astype(np.float32)
    tokens = rng.integers(0, 80, n).astype(np.int32)
    return SampledChunk(tokens, logp + np.float32(0.05), logp, np.zeros(n, np.int32))


def trajectory(seed: int, images: int = 1) -> tuple[Chunk, ...]:
    """A prompt with images, a turn, an observation with a crop, a turn."""
    rng = np.random.default_rng(seed)
    n = [int(k) for k in rng.integers(3, 8, 4)]
    return context(rng, n[0], images), sampled(rng, n[1]), context(rng, n[2], images and 1), sampled(rng, n[3])


def samples(count: int, images: int = 1) -> list[TrainingSample]:
    """Advantages of both signs; every third failed."""
    rng = np.random.default_rng(99)
    return [TrainingSample(trajectory(i, images), float(rng.normal()), failed=i % 3 == 0) for i in range(count)]
