"""The images of a packed batch: patched once, and laid out in a fixed shape. Host work, numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import ml_dtypes
import numpy as np
from PIL import Image

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.processing import PatchedImage, bucket, patchify, patchify_bytes, vision_inputs
from hypereyes_jax.processing.types import VisionInputs
from hypereyes_jax.processing.vision import place


def patches_by_image(
    config: Qwen3VLConfig, images: Iterable[Image.Image | PatchedImage], pack_config: PackConfig
) -> dict[int, PatchedImage]:
    """id(image) -> its patches. Each is patched once: the rollouts of a group share their question's images.

    An image that a loader has made patches of already is taken as it is.
    """
    to_patches = patchify_bytes if pack_config.patch_dtype == "uint8" else patchify
    return {
        key: image
        if isinstance(image, PatchedImage)
        else to_patches(image, config.vision, pack_config.min_pixels, pack_config.max_pixels)
        for key, image in {id(image): image for image in images}.items()
    }


def stack_images(
    config: Qwen3VLConfig, images: Sequence[Sequence[PatchedImage]], parts: int, pack_config: PackConfig
) -> tuple[VisionInputs, int]:
    """The images of each part: (leaves [M, ...] with parts side by side, visual tokens a part).

    Args:
      images: of each part that has some.
      parts: all of them, micro-batches times shards.

    Raises ValueError when `pack_config.vision` is too small for them, or no multiple of the shards.
    """
    rows, length = _vision_shape(config, images, pack_config)
    none: Sequence[PatchedImage] = ()
    tokens = rows * length // config.vision.merge_unit
    shards = pack_config.shards
    stacked: list[np.ndarray] = []
    kinds = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "uint8": np.uint8}
    patch_dtype = kinds[pack_config.patch_dtype]
    # Patches are the bulk of a batch: they are written where they stay. Zeros that are not written to take no memory.
    patches = np.zeros((parts, rows * length, config.vision.patch_values), patch_dtype)
    for number, part in enumerate([*images, *[none] * (parts - len(images))]):
        inputs = vision_inputs(config.vision, part, (rows, length), patches[number])
        inputs = inputs._replace(token_place_M=inputs.token_place_M + np.int32(number % shards * tokens))
        stacked = stacked or [
            patches if leaf is inputs.patches_NP else np.empty((parts, *leaf.shape), leaf.dtype) for leaf in inputs
        ]
        for all_parts, leaf in zip(stacked, inputs, strict=True):
            if all_parts is not patches:
                all_parts[number] = leaf
    return VisionInputs(*(leaf.reshape(parts // shards, -1, *leaf.shape[2:]) for leaf in stacked)), tokens


def _vision_shape(
    config: Qwen3VLConfig, images: Sequence[Sequence[PatchedImage]], pack_config: PackConfig
) -> tuple[int, int]:
    """(rows, patches a row) that hold the images of every part."""
    if pack_config.vision is not None:
        rows, length = pack_config.vision
        if rows % pack_config.shards:
            raise ValueError(f"PackConfig.vision: {rows} rows must be a multiple of shards={pack_config.shards}")
        return rows // pack_config.shards, length
    sizes = [[len(image.patches) for image in each] for each in images]
    _, least_rows, least_length = pack_config.at_least
    least_rows = -(-least_rows // pack_config.shards)
    largest = max((max(each, default=0) for each in sizes), default=0)
    # what fits the least size takes that, which need not be a bucket: 4,800 patches lie between 4,096 and 6,144
    length = least_length if 0 < largest <= least_length else bucket(largest, 4 * config.vision.merge_unit)
    length = max(length, least_length)
    rows = max(place(each, length)[1] for each in sizes)
    return least_rows if rows <= least_rows else bucket(rows), length
