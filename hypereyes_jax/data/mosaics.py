"""Draws several pictures into one image, and says where each is in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hypereyes_jax.env.types import Box

# (rows, columns); the paper's mosaics hold 2 to 8 entities
LAYOUTS: tuple[tuple[int, int], ...] = (
    *((1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (1, 4), (4, 1)),
    *((2, 3), (3, 2), (2, 4), (4, 2)),
)
_ORDINALS = ("first", "second", "third", "fourth")
_NOISE = 10  # grey levels, on two of three grounds


@dataclass(frozen=True)
class Mosaic:
    """Pictures laid out on one canvas, and where each of them is."""

    image: Image.Image
    boxes: tuple[Box, ...]  # fractions of width and height, in reading order


def draw_mosaic(
    pictures: Sequence[Image.Image], layout: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> Mosaic:
    """One picture a cell, in reading order, each scaled and shifted at random within its cell, on a light ground.

    Args:
      layout: (rows, columns); rows * columns pictures are expected.
      size: (width, height) in pixels.
    """
    rows, columns = layout
    if len(pictures) != rows * columns:
        raise ValueError(f"layout {rows}x{columns} holds {rows * columns} pictures, got {len(pictures)}")
    width, height = size
    image = _ground(size, rng)
    cell_width, cell_height = width / columns, height / rows
    boxes = []
    for place, picture in enumerate(pictures):
        fill = rng.uniform(0.72, 0.94)
        scale = min(fill * cell_width / picture.width, fill * cell_height / picture.height)
        w, h = max(8, round(picture.width * scale)), max(8, round(picture.height * scale))
        row, column = divmod(place, columns)
        x = round(column * cell_width + rng.uniform(0.02, 0.98) * (cell_width - w))
        y = round(row * cell_height + rng.uniform(0.02, 0.98) * (cell_height - h))
        image.paste(picture.resize((w, h), Image.Resampling.LANCZOS), (x, y))
        boxes.append((x / width, y / height, (x + w) / width, (y + h) / height))
    return Mosaic(image, tuple(boxes))


def _ground(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Plain, with noise, or with noise on a gradient."""
    colour = rng.integers(150, 256, 3).astype(np.float32)
    kind = int(rng.integers(3))
    if kind == 0:
        return Image.new("RGB", size, tuple(int(c) for c in colour))
    width, height = size
    pixels = np.broadcast_to(colour, (height, width, 3)).copy()
    if kind == 2:
        pixels += np.linspace(-25, 25, width, dtype=np.float32)[None, :, None] * float(rng.choice([-1.0, 1.0]))
    pixels += rng.integers(-_NOISE, _NOISE + 1, (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def places(layout: tuple[int, int], index: int) -> tuple[str, ...]:
    """Phrases that say where a cell is, each fit to follow "the flag": "in the top left", "second from the right"."""
    rows, columns = layout
    row, column = divmod(index, columns)
    if rows == 1:
        return (*_line(column, columns, "left", "right"), f"number {column + 1} from the left")
    if columns == 1:
        return (*_line(row, rows, "top", "bottom"), f"number {row + 1} from the top")
    phrases = [f"in row {row + 1}, column {column + 1}"]
    vertical = {0: "top", rows - 1: "bottom"}.get(row, "")
    horizontal = {0: "left", columns - 1: "right"}.get(column, "")
    if vertical and horizontal:
        phrases += [f"in the {vertical} {horizontal}", f"in the {vertical}-{horizontal} corner"]
    if vertical:
        phrases += [f"{phrase} in the {vertical} row" for phrase in _line(column, columns, "left", "right")]
    elif rows == 3:
        phrases += [f"{phrase} in the middle row" for phrase in _line(column, columns, "left", "right")]
    else:
        phrases += [f"{phrase} in the {_ORDINALS[row]} row" for phrase in _line(column, columns, "left", "right")]
    return tuple(phrases)


def _line(index: int, count: int, first: str, last: str) -> tuple[str, ...]:
    """Where the index-th of `count` things in a line is."""
    if index == 0:
        return (f"on the {first}",) if first == "left" else (f"at the {first}",)
    if index == count - 1:
        return (f"on the {last}",) if last == "right" else (f"at the {last}",)
    if count % 2 and index == count // 2:
        return ("in the middle",)
    if index < count / 2:
        return (f"{_ORDINALS[index]} from the {first}",)
    return (f"{_ORDINALS[count - 1 - index]} from the {last}",)
