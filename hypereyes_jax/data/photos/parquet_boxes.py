"""Boxes of parquet copies of photo sets, whose columns hold them in several orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hypereyes_jax.data.photos.types import PixelBox

Size = tuple[int, int]  # width and height of a photo

_COLUMNS = ("bbox", "box", "bounding_box")
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"),
    ("left", "top", "right", "bottom"),
)
_SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"))
_SAMPLE = 200  # photos that are opened to tell the order of numbers


class RowBox(NamedTuple):
    """What a row has for a box."""

    corners: PixelBox | None = None  # where the numbers have names
    numbers: tuple[float, ...] = ()  # of a list, whose order nothing tells
    unread: bool = False  # there is something, and no box in it


def box_of_row(row: Mapping[str, Any]) -> RowBox:
    """The box of a row: in columns or a structure with names, or in a list; empty without one."""
    value = next((row[name] for name in _COLUMNS if row.get(name) is not None), None)
    if isinstance(value, Sequence) and len(value) == 1 and not isinstance(value, str):
        value = value[0]  # the only one of a list of boxes
    named = value if isinstance(value, Mapping) else row
    for names in (*_CORNERS, *_SIZES):
        numbers = _numbers(named.get(name) for name in names)
        if numbers:
            return RowBox(_corners(numbers, names in _SIZES))
    numbers = _numbers(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return RowBox(numbers=numbers, unread=value is not None and not numbers)


def pixel_boxes(
    boxes: Sequence[RowBox], size_of: Callable[[int], Size], fractions_are_tfds: bool
) -> tuple[list[PixelBox | None], str]:
    """The boxes in pixels, None where there is none, and a note if some can't be read.

    The order of a list is told by all lists together. In no photo is the second corner before the first, nor does a box
    reach over the edge.

    Args:
      size_of: width and height of the photo of a row.
      fractions_are_tfds: fractions of a side are in the order of TensorFlow Datasets: y1, x1, y2, x2.
    """
    listed = {place: box.numbers for place, box in enumerate(boxes) if box.numbers}
    pixels = [box.corners for box in boxes]
    if not listed:
        unread = sum(box.unread for box in boxes)
        return pixels, f"boxes of {unread:,} photos are left out: they are not four numbers" if unread else ""
    if all(0 <= number <= 1 for numbers in listed.values() for number in numbers):
        if not fractions_are_tfds:
            return pixels, "boxes in fractions of a side are left out: nothing tells the order of their numbers"
        for place, (y1, x1, y2, x2) in listed.items():
            width, height = size_of(place)
            pixels[place] = (x1 * width, y1 * height, x2 * width, y2 * height)
        return pixels, ""
    sizes = any(right <= left or bottom <= top for left, top, right, bottom in listed.values())
    sample = list(listed.items())[:_SAMPLE]
    corners = any(_reaches_over(numbers, size_of(place)) for place, numbers in sample) if not sizes else False
    if not sizes and not corners:
        return pixels, "boxes are left out: nothing tells whether their numbers are two corners, or one and a size"
    for place, numbers in listed.items():
        pixels[place] = _corners(numbers, sizes)
    return pixels, ""


def _reaches_over(numbers: Sequence[float], size: Size) -> bool:
    """Whether a box would reach over the photo's edge, by more than rounding, if it were a corner and a size."""
    return numbers[0] + numbers[2] > size[0] + 1 or numbers[1] + numbers[3] > size[1] + 1


def _corners(numbers: Sequence[float], sizes: bool) -> PixelBox:
    x, y, right, bottom = numbers
    return (x, y, x + right, y + bottom) if sizes else (x, y, right, bottom)


def _numbers(values: Iterable[Any]) -> tuple[float, ...]:
    """Four finite numbers; () for anything else."""
    numbers = [
        float(value)
        for value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]
    return tuple(numbers) if len(numbers) == 4 else ()
