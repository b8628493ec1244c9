"""Training samples on their way to another process, which feeds its own data shards with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from hypereyes_jax.launch.links.messages import Message
from hypereyes_jax.learner.packing import TrainingSample
from hypereyes_jax.processing import ContextChunk, PatchedImage, SampledChunk
from hypereyes_jax.processing.types import Chunk


def spread(samples: Sequence[TrainingSample], parts: int) -> list[list[TrainingSample]]:
    """Deals samples out. A part that would get none gets one that weighs nothing, since a batch needs one.

    Raises ValueError if there is no sample.
    """
    if not samples:
        raise ValueError("spread() needs a sample")
    return [list(samples[part::parts]) or [replace(samples[0], weight=0.0, failed=False)] for part in range(parts)]


def to_message(samples: Sequence[TrainingSample]) -> Message:
    """All of the samples, exactly; images as RGB, which is how they are read, or as the patches that a loader made of
    them. An image that several share goes once."""
    arrays: list[np.ndarray] = []
    images: dict[int, int] = {}
    sizes: list[list[int]] = []  # of each image: width and height, or of patches the grid
    for sample in samples:
        for chunk in sample.chunks:
            for image in chunk.images if isinstance(chunk, ContextChunk) else ():
                if id(image) in images:
                    continue
                images[id(image)] = len(images)
                if isinstance(image, PatchedImage):
                    sizes.append(list(image.grid_thw))
                    arrays.append(image.patches)
                else:
                    sizes.append(list(image.size))
                    arrays.append(np.frombuffer(image.convert("RGB").tobytes(), np.uint8))
    descriptions = []
    for sample in samples:
        chunks: list[Any] = []
        for chunk in sample.chunks:
            if isinstance(chunk, ContextChunk):
                arrays.append(chunk.tokens)
                chunks.append([images[id(image)] for image in chunk.images])
            else:
                arrays += [chunk.tokens, chunk.logp_truncated, chunk.logp_full, chunk.version]
                chunks.append(None)
        if sample.teacher_logp is not None:
            arrays.append(sample.teacher_logp)
        if sample.routes is not None:
            arrays.append(sample.routes)
        more = [sample.teacher_logp is not None, sample.routes is not None]
        descriptions.append([sample.advantage, sample.failed, sample.weight, *more, chunks])
    return Message("samples", [sizes, descriptions], arrays)


def from_message(message: Message) -> list[TrainingSample]:
    """What `to_message` was given."""
    sizes, descriptions = message.values
    arrays = iter(message.arrays)
    images = [_image(size, next(arrays)) for size in sizes]
    samples = []
    for advantage, failed, weight, has_teacher, has_routes, kinds in descriptions:
        chunks: list[Chunk] = []
        for images_of in kinds:
            if images_of is None:
                tokens, truncated, full, version = (next(arrays) for _ in range(4))
                chunks.append(SampledChunk(tokens, truncated, full, version))
            else:
                chunks.append(ContextChunk(next(arrays), tuple(images[number] for number in images_of)))
        teacher = next(arrays) if has_teacher else None
        routes = next(arrays) if has_routes else None
        samples.append(TrainingSample(tuple(chunks), advantage, failed, weight, teacher, routes))
    return samples


def _image(size: Sequence[int], values: np.ndarray) -> Image.Image | PatchedImage:
    if len(size) == 3:
        time, height, width = size
        return PatchedImage(values, (time, height, width))
    width, height = size
    return Image.frombytes("RGB", (width, height), values.tobytes())
