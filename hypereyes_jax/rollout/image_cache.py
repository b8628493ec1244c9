"""Which rows of the device's visual pool hold which image. Bounded; the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

import numpy as np


class ImageCache:
    """Rows by image. An image's rows need not be adjacent: each visual token is looked up by its own row."""

    def __init__(self, rows: int):
        self.rows = rows
        self._free = list(range(rows))
        self._held: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: bytes) -> np.ndarray | None:
        """int32 rows of an image's visual tokens, or None if it is not held. Marks it as used."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key]

    def allocate(self, key: bytes, count: int, pinned: Collection[bytes]) -> np.ndarray | None:
        """Rows for a new image, made free by dropping others; None if those not pinned are not enough."""
        if key in self._held:
            raise ValueError("the image is held already")
        evictable = sum(len(rows) for held, rows in self._held.items() if held not in pinned)
        if count > len(self._free) + evictable:
            return None
        for held in [held for held in self._held if held not in pinned]:
            if len(self._free) >= count:
                break
            self._free.extend(self._held.pop(held).tolist())
        rows = np.array([self._free.pop() for _ in range(count)], np.int32)
        self._held[key] = rows
        return rows

    def clear(self) -> None:
        """Forgets all: the weights that encoded the images are gone."""
        self._free = list(range(self.rows))
        self._held.clear()
