"""Mosaics of real photos at full resolution, with the place of each photo and of what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hypereyes_jax.data.mosaics import LAYOUTS
from hypereyes_jax.data.photos import Photo
from hypereyes_jax.env.types import Box

GAP = 16  # pixels between photos
_MAX_SIDE = 8192  # pixels of a mosaic; a larger one is scaled down as a whole


@dataclass(frozen=True)
class PhotoMosaic:
    """Photos laid out on one canvas, and where they and their subjects are."""

    image: Image.Image
    boxes: tuple[Box, ...]  # of the photos in reading order, fractions of width and height
    subjects: tuple[Box | None, ...]  # of what each photo shows, where its set has a box
    layout: tuple[int, int]  # rows, columns


def layout_of(count: int, rng: np.random.Generator) -> tuple[int, int]:
    """A layout of the paper's (rows, columns) for 2 to 8 photos. Raises ValueError for a count that has none."""
    fitting = [layout for layout in LAYOUTS if layout[0] * layout[1] == count]
    if not fitting:
        raise ValueError(f"no layout holds {count} photos; there are layouts for 2, 3, 4, 6 and 8")
    return fitting[int(rng.integers(len(fitting)))]


def draw_photo_mosaic(
    photos: Sequence[tuple[Image.Image, Photo]], layout: tuple[int, int], max_side: int = _MAX_SIDE
) -> PhotoMosaic:
    """One photo a cell, as large as it is: a row is as high as its highest photo, a column as wide as its widest."""
    rows, columns = layout
    if len(photos) != rows * columns:
        raise ValueError(f"layout {rows}x{columns} holds {rows * columns} photos, got {len(photos)}")
    sizes = np.array([[photos[row * columns + column][0].size for column in range(columns)] for row in range(rows)])
    widths, heights = sizes[:, :, 0].max(axis=0), sizes[:, :, 1].max(axis=1)
    lefts = np.concatenate([[0], np.cumsum(widths + GAP)])
    tops = np.concatenate([[0], np.cumsum(heights + GAP)])
    width, height = int(lefts[-1]) - GAP, int(tops[-1]) - GAP
    image = Image.new("RGB", (width, height), "white")
    boxes: list[Box] = []
    subjects: list[Box | None] = []
    for place, (picture, photo) in enumerate(photos):
        row, column = divmod(place, columns)
        x = int(lefts[column]) + (int(widths[column]) - picture.width) // 2
        y = int(tops[row]) + (int(heights[row]) - picture.height) // 2
        image.paste(picture, (x, y))
        boxes.append((x / width, y / height, (x + picture.width) / width, (y + picture.height) / height))
        subjects.append(_subject(photo, picture, (x, y), (width, height)))
    scale = max_side / max(width, height)
    if scale < 1:
        image = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
    return PhotoMosaic(image, tuple(boxes), tuple(subjects), layout)


def _subject(photo: Photo, picture: Image.Image, at: tuple[int, int], size: tuple[int, int]) -> Box | None:
    if photo.box is None:
        return None
    x1, x2 = (min(max(edge, 0.0), picture.width) for edge in (photo.box[0], photo.box[2]))
    y1, y2 = (min(max(edge, 0.0), picture.height) for edge in (photo.box[1], photo.box[3]))
    if x2 <= x1 or y2 <= y1:
        return None
    return ((at[0] + x1) / size[0], (at[1] + y1) / size[1], (at[0] + x2) / size[0], (at[1] + y2) / size[1])
