"""Whole samples to one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from hypereyes_jax.configs.images import MAX_PIXELS, MIN_PIXELS
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.processing.expand import expand
from hypereyes_jax.processing.images import PatchedImage, patchify
from hypereyes_jax.processing.types import ModelInputs
from hypereyes_jax.processing.vision import bucket, vision_inputs

Sample = tuple[Sequence[int], Sequence[Image.Image | PatchedImage]]


def pack_inputs(
    config: Qwen3VLConfig,
    samples: Sequence[Sample],
    min_pixels: int = MIN_PIXELS,
    max_pixels: int = MAX_PIXELS,
    *,
    length: int | None = None,
    vision_pad_to: tuple[int, int] | None = None,
) -> ModelInputs:
    """Expand, place and right-pad samples, one a row.

    Args:
      samples: (token ids with one image or video token per image, images). An image already patched is taken as it is;
        a video token stands for one temporal patch of a video, given as a `PatchedImage`.
      min_pixels, max_pixels: area that PIL images are resized into.
      length: T of the result; default: a bucket, so that batches of like size share one compiled program.
      vision_pad_to: (rows, patches a row) of the vision inputs; default: buckets.

    Raises ValueError naming the sample whose images do not match its tokens or do not fit.
    """
    rows, patched_all = [], []
    for number, (tokens, images) in enumerate(samples):
        try:
            patched = [
                image if isinstance(image, PatchedImage) else patchify(image, config.vision, min_pixels, max_pixels)
                for image in images
            ]
            rows.append(expand(config, tokens, patched))
        except ValueError as error:
            raise ValueError(f"sample {number}: {error}") from error
        patched_all += patched
    longest = max((len(row.tokens_T) for row in rows), default=0)
    if length is None:
        length = bucket(longest, 32)
    if longest > length:
        raise ValueError(f"a sample of {longest} tokens does not fit length={length}")
    shape = (len(rows), length)
    tokens_BT, segment_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    positions_3BT, visual_index_BT = np.zeros((3, *shape), np.int32), np.full(shape, -1, np.int32)
    visual_tokens = 0
    for b, row in enumerate(rows):
        count = len(row.tokens_T)
        tokens_BT[b, :count] = row.tokens_T
        positions_3BT[:, b, :count] = row.positions_3T
        segment_BT[b, :count] = 1
        visual = row.visual_index_T
        visual_index_BT[b, :count] = np.where(visual < 0, -1, visual + visual_tokens)
        visual_tokens += int(visual.max(initial=-1)) + 1
    vision = vision_inputs(config.vision, patched_all, vision_pad_to)
    return ModelInputs(tokens_BT, positions_3BT, segment_BT, visual_index_BT, vision)
