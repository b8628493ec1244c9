"""Reverse image search over flags: colour layout and histogram, cosine similarity, a gallery of imperfect crops.

A perceptual hash breaks as soon as a crop is a few per cent off, so there would be nothing to learn from. This
descriptor falls smoothly with the quality of the box, which is what the world is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources

import numpy as np
from PIL import Image

from hypereyes_jax.env.world.members import MEMBERS, NO_FLAG

_COLUMNS, _ROWS = 12, 9  # cells of the layout
_CELL = 3  # pixels a cell side that the histogram counts
_LEVELS = 4  # histogram bins a colour channel
_HISTOGRAM_WEIGHT = 0.5

# Crops the gallery holds of each flag, as (left, top, right, bottom) moves outward (+) or inward (-) in fractions of
# its sides: the true box, each edge off by 10 %, two edges off (a shifted box), and all edges off.
_Moves = tuple[float, float, float, float]
_VIEWS: tuple[_Moves, ...] = (
    *((0.0, 0.0, 0.0, 0.0), (0.18, 0.18, 0.18, 0.18), (-0.16, -0.16, -0.16, -0.16)),
    *((0.1, 0.0, 0.0, 0.0), (0.0, 0.1, 0.0, 0.0), (0.0, 0.0, 0.1, 0.0), (0.0, 0.0, 0.0, 0.1)),
    *((-0.1, 0.0, 0.0, 0.0), (0.0, -0.1, 0.0, 0.0), (0.0, 0.0, -0.1, 0.0), (0.0, 0.0, 0.0, -0.1)),
    *((x, y, -x, -y) for x in (0.1, -0.1) for y in (0.1, -0.1)),
    *((x, y, x, y) for x in (0.09, -0.09) for y in (0.09, -0.09)),
)
_CANDIDATES = 40  # flags near the query by their mean view, whose views are then compared one by one
_GROUND = (200, 200, 200)  # what lies beyond a flag's edge in the gallery; mosaics have light grounds


@lru_cache(maxsize=1)
def flags() -> dict[str, Image.Image]:
    """Key -> flag, RGB, 160 px wide."""
    folder = resources.files("hypereyes_jax.env.world") / "flags"
    images = {}
    for key in MEMBERS:
        if key not in NO_FLAG:
            with (folder / f"{key}.png").open("rb") as file:
                images[key] = Image.open(file).convert("RGB")
    return images


def describe(image: Image.Image) -> np.ndarray:
    """float32 [388] of unit length."""
    small = image.convert("RGB").resize((_COLUMNS * _CELL, _ROWS * _CELL), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32) / 255.0
    layout = pixels.reshape(_ROWS, _CELL, _COLUMNS, _CELL, 3).mean((1, 3)).ravel() - 0.5
    bins = np.minimum((pixels * _LEVELS).astype(np.int32), _LEVELS - 1).reshape(-1, 3)
    counts = np.bincount(bins @ np.array([_LEVELS**2, _LEVELS, 1]), minlength=_LEVELS**3)
    histogram = np.sqrt(counts / len(bins)).astype(np.float32)
    layout /= max(float(np.linalg.norm(layout)), 1e-6)
    both = np.concatenate([layout, _HISTOGRAM_WEIGHT * histogram])
    return (both / np.linalg.norm(both)).astype(np.float32)


def _view(flag: Image.Image, moves: _Moves) -> Image.Image:
    width, height = flag.size
    left, top, right, bottom = (round(m * side) for m, side in zip(moves, (width, height) * 2, strict=True))
    out = Image.new("RGB", (width + left + right, height + top + bottom), _GROUND)
    out.paste(flag, (left, top))
    return out


@lru_cache(maxsize=1)
def gallery() -> tuple[tuple[str, ...], np.ndarray]:
    """(keys [F], descriptors float32 [F, views, 388]); made once a process, shared by every world."""
    return views_of(flags())


def views_of(pictures: Mapping[str, Image.Image]) -> tuple[tuple[str, ...], np.ndarray]:
    """(keys [F], descriptors float32 [F, views, 388]) of pictures that are to be found."""
    rows = []
    for picture in pictures.values():
        small = picture.resize((80, round(picture.height * 80 / picture.width)), Image.Resampling.BOX)
        rows.append([describe(_view(small, moves)) for moves in _VIEWS])
    return tuple(pictures), np.array(rows, np.float32)


class ImageIndex:
    """A gallery cut down to the pictures of one world; by default the gallery of flags."""

    def __init__(self, keys: Sequence[str], pictures: tuple[tuple[str, ...], np.ndarray] | None = None):
        all_keys, descriptors = pictures or gallery()
        own_keys = set(keys)
        rows = [i for i, key in enumerate(all_keys) if key in own_keys]
        self.keys = tuple(all_keys[i] for i in rows)
        self._views = descriptors if len(rows) == len(all_keys) else descriptors[rows]
        self._centres = self._views.mean(1)

    def search(self, image: Image.Image, k: int) -> list[tuple[str, float]]:
        """The k most similar flags as (key, cosine in [0, 1]), best first."""
        if not self.keys or k <= 0:
            return []
        query = describe(image)
        # einsum, not @: BLAS would wake all cores for this and fight the model for them.
        rough = np.einsum("fd,d->f", self._centres, query)
        near = np.argpartition(-rough, min(max(k, _CANDIDATES), len(rough)) - 1)[: max(k, _CANDIDATES)]
        similarity = np.einsum("fvd,d->fv", self._views[near], query).max(1)
        top = np.argsort(-similarity, kind="stable")[:k]
        return [(self.keys[near[i]], float(np.clip(similarity[i], 0.0, 1.0))) for i in top]
