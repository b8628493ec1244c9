"""Boxes to crops. A crop is cut on the host from the image the episode holds, never from what the vision tower sees."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from hypereyes_jax.env.types import Box, finite_box

BoxUnits = Literal["unit", "permille", "pixel", "auto"]

UNITS_IN_WORDS: dict[str, str] = {
    "unit": "fractions of the width and height, from 0 to 1",
    "permille": "thousandths of the width and height, from 0 to 1000",
    "pixel": "pixels of that image",
    "auto": "fractions from 0 to 1, thousandths from 0 to 1000, or pixels of that image",
}


def to_fractions(box: Box, size: tuple[int, int], units: BoxUnits = "unit") -> Box | None:
    """A box as written -> fractions of the image's width and height, or None when it can't be meant in these units.

    Args:
      box: (x1, y1, x2, y2) as the model wrote it.
      size: (width, height) of the image in pixels.
      units: "unit" 0..1 (the paper's), "permille" 0..1000 (how Qwen3-VL grounds natively), "pixel", or "auto": the
        first of those three that the largest coordinate fits.

    A box may stick out of the image by up to half its size (the crop clamps it); beyond that other units were meant.
    """
    numbers = finite_box(box)
    if numbers is None:
        return None
    spans = {"unit": (1.0, 1.0), "permille": (1000.0, 1000.0), "pixel": (float(size[0]), float(size[1]))}
    for name in ("unit", "permille", "pixel") if units == "auto" else (units,):
        width, height = spans[name]
        x1, y1, x2, y2 = (v / s for v, s in zip(numbers, (width, height, width, height), strict=True))
        # In "auto" little but the range tells the units apart, so only rounding may exceed it.
        limit = 1.05 if units == "auto" else 1.5
        if max(x1, y1, x2, y2) <= limit and min(x1, y1, x2, y2) >= -0.5:
            return x1, y1, x2, y2
    return None


def crop(image: Image.Image, box: Box, max_side: int = 1000) -> Image.Image | None:
    """Cuts `box` out of `image` by the rules of the authors' published environment.

    Args:
      image: any size and mode.
      box: (x1, y1, x2, y2) in fractions of width and height.
      max_side: a longer crop is scaled down (Lanczos, both sides truncated) to this many pixels; a shorter one stays.

    Returns:
      The crop, or None if the box is empty after truncation to pixels and clamping to the image (a reversed box, too:
      corners are not swapped), or holds a value that is not finite.
    """
    numbers = finite_box(box)
    if numbers is None:
        return None
    width, height = image.size
    x1, x2 = (_pixel(value, width) for value in (numbers[0], numbers[2]))
    y1, y2 = (_pixel(value, height) for value in (numbers[1], numbers[3]))
    x1, y1, x2, y2 = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
    if x2 <= x1 or y2 <= y1:
        return None
    return shrink(image.crop((x1, y1, x2, y2)), max_side)


def shrink(image: Image.Image, max_side: int) -> Image.Image:
    """Scales an image whose longer side exceeds `max_side` down to it; others are returned as they are."""
    longest = max(image.size)
    if longest <= max_side:
        return image
    scale = max_side / longest
    width, height = (max(1, int(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _pixel(fraction: float, side: int) -> int:
    # Bounded before the truncation, since a model may write 1e308; one pixel outside is enough to stay out.
    return int(min(max(fraction * side, -1.0), side + 1.0))
