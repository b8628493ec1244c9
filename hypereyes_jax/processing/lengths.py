"""Lengths in tokens, visual tokens counted one by one."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from hypereyes_jax.processing.images import smart_resize
from hypereyes_jax.processing.types import Chunk, ContextChunk


def episode_visual_tokens(chunks: Sequence[Chunk], min_pixels: int, max_pixels: int) -> int:
    """Visual tokens of all the images of an episode."""
    images = [image for chunk in chunks if isinstance(chunk, ContextChunk) for image in chunk.images]
    return sum(visual_tokens(image, min_pixels, max_pixels) for image in images)


def episode_tokens(chunks: Sequence[Chunk], min_pixels: int, max_pixels: int) -> int:
    """Length of an episode with its image tokens expanded to one a visual token."""
    placeholders = sum(len(chunk.images) for chunk in chunks if isinstance(chunk, ContextChunk))
    visual = episode_visual_tokens(chunks, min_pixels, max_pixels)
    return sum(len(chunk.tokens) for chunk in chunks) - placeholders + visual


def visual_tokens(image: Image.Image, min_pixels: int, max_pixels: int, side: int = 32) -> int:
    """Tokens that stand for an image: one a square of `side` px, which is 32 in every Qwen3-VL, after resizing."""
    height, width = smart_resize(image.height, image.width, side, min_pixels, max_pixels)
    return height * width // side**2
