"""PIL images to normalised, flattened patches, as transformers' Qwen2-VL processor makes them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from hypereyes_jax.configs.images import MAX_PIXELS, MIN_PIXELS
from hypereyes_jax.configs.model import VisionConfig
from hypereyes_jax.env.media.images import to_rgb

# Pixels are mapped to [-1, 1]; the mean and standard deviation in every published preprocessor_config.json.
_MEAN = np.float32(0.5)
_STD = np.float32(0.5)
_MAX_ASPECT = 200


class PatchedImage(NamedTuple):
    """One image, or one temporal patch of a video (two frames seen as one)."""

    # [n, P], merge-block order; values flattened as (channel, temporal, row, column). float32 in [-1, 1]; or uint8 as
    # in the image, a quarter of the memory, which `normalised` or the model's vision tower maps to that. Or the one
    # frame of a still image, [n, P / temporal_patch_size], which stands for all frames of its patches.
    patches: np.ndarray
    grid_thw: tuple[int, int, int]  # in patches; the temporal side is always 1


def smart_resize(height: int, width: int, multiple: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The (height, width) an image is resized to: multiples of `multiple`, area within bounds, aspect nearly kept.

    Raises ValueError for an aspect ratio above 200, or one so extreme that the area cannot come under `max_pixels`.
    """
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise ValueError(f"image of {width}x{height} pixels has an aspect ratio above {_MAX_ASPECT}; crop it first")
    new_height, new_width = round(height / multiple) * multiple, round(width / multiple) * multiple
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height = max(multiple, math.floor(height / shrink / multiple) * multiple)
        new_width = max(multiple, math.floor(width / shrink / multiple) * multiple)
        if new_height * new_width > max_pixels:
            raise ValueError(
                f"image of {width}x{height} pixels becomes {new_width}x{new_height}, beyond the cap of {max_pixels} "
                "pixels; raise max_pixels or crop it"
            )
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / multiple) * multiple
        new_width = math.ceil(width * grow / multiple) * multiple
    return new_height, new_width


def patchify(
    image: Image.Image, config: VisionConfig, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> PatchedImage:
    """Resize (bicubic), normalise and cut one image.

    A still image fills all `temporal_patch_size` frames of its patches with itself.

    Raises ValueError for an empty image, a non-finite pixel, or a size that cannot be made to fit.
    """
    pixels = _resized(image, config, min_pixels, max_pixels)
    patched = _cut(np.broadcast_to(pixels, (config.temporal_patch_size, *pixels.shape)), config)
    return patched._replace(patches=normalised(patched.patches))


def patchify_bytes(
    image: Image.Image, config: VisionConfig, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> PatchedImage:
    """What `patchify` gives, with the resized image's own values (uint8) of one frame: an eighth of the memory."""
    return _cut(_resized(image, config, min_pixels, max_pixels)[None], config)


def normalised(patches: np.ndarray) -> np.ndarray:
    """uint8 values as float32 in [-1, 1], as the model was trained to see them."""
    return (patches.astype(np.float32) / np.float32(255) - _MEAN) / _STD


def _resized(image: Image.Image, config: VisionConfig, min_pixels: int, max_pixels: int) -> np.ndarray:
    width, height = image.size
    if not width or not height:
        raise ValueError(f"image of {width}x{height} pixels is empty")
    return _resample(image, smart_resize(height, width, config.pixel_multiple, min_pixels, max_pixels))


def _resample(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width, 3]."""
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise ValueError("image has NaN or infinite pixels")
    if image.mode.startswith("I"):  # of 16 bits, which Pillow would clip at 255
        image = to_rgb(image)
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    height, width = size
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def _cut(pixels_THWC: np.ndarray, config: VisionConfig) -> PatchedImage:
    frames, height, width, channels = pixels_THWC.shape
    patch, merge = config.patch_size, config.spatial_merge_size
    rows, columns = height // patch, width // patch
    blocks = pixels_THWC.reshape(frames, rows // merge, merge, patch, columns // merge, merge, patch, channels)
    # (block row, block column, row in block, column in block, channel, frame, pixel row, pixel column)
    blocks = blocks.transpose(1, 4, 2, 5, 7, 0, 3, 6)
    return PatchedImage(np.ascontiguousarray(blocks.reshape(rows * columns, -1)), (1, rows, columns))
