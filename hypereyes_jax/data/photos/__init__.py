"""Fine-grained photo sets: CUB, Flowers, Cars, Aircraft, Pets, and any folder of class folders."""

from __future__ import annotations

from hypereyes_jax.data.photos.opening import PHOTO_SETS, open_photos
from hypereyes_jax.data.photos.types import Photo, PhotoSet

__all__ = ["PHOTO_SETS", "Photo", "PhotoSet", "open_photos"]
