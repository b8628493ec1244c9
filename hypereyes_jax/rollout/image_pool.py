"""Encoded images on the device, by their content: equal images are encoded once, whichever request they come from.

The pool is one array of rows, one a visual token; `extend` looks up each visual token by its row. So an image's rows
need not be adjacent, any mix of images goes through one program, and nothing is ever moved. It is bounded: the image
that was not used for longest makes room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from collections.abc import Sequence as Items

import numpy as np

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import EngineConfig
from hypereyes_jax.processing import PatchedImage, patchify, vision_inputs
from hypereyes_jax.processing.vision import place
from hypereyes_jax.rollout.device import DeviceCalls
from hypereyes_jax.rollout.sequence import ImageRef, Sequence


class RowTable:
    """Which rows hold which image. Host bookkeeping only."""

    def __init__(self, rows: int):
        self.rows = rows
        self._free = list(range(rows))
        self._rows: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> np.ndarray | None:
        """int32 rows of an image's visual tokens, or None if it is not held. Marks it as used."""
        if key not in self._rows:
            return None
        self._rows.move_to_end(key)
        return self._rows[key]

    def allocate(self, key: bytes, count: int, pinned: Collection[bytes]) -> np.ndarray | None:
        """Rows for a new image, made free by dropping others; None if those not pinned are not enough."""
        if key in self._rows:
            raise ValueError("the image is held already")
        evictable = sum(len(rows) for image_key, rows in self._rows.items() if image_key not in pinned)
        if count > len(self._free) + evictable:
            return None
        for image_key in [image_key for image_key in self._rows if image_key not in pinned]:
            if len(self._free) >= count:
                break
            self._free.extend(self._rows.pop(image_key).tolist())
        rows = np.array([self._free.pop() for _ in range(count)], np.int32)
        self._rows[key] = rows
        return rows

    def clear(self) -> None:
        self._free = list(range(self.rows))
        self._rows.clear()


class ImagePool:
    """Which images are in the device's pool; encodes those that are missing."""

    def __init__(self, config: Qwen3VLConfig, settings: EngineConfig, device: DeviceCalls):
        self.config, self.settings = config, settings
        self.encoded = 0  # images since the pool was made
        self.hits = 0  # images that were held already when they were asked for
        self._table = RowTable(settings.visual_tokens)
        self._device = device

    def load(self, sequences: Items[Sequence], width: int) -> list[Sequence]:
        """Encodes what the sequences' next `width` unread tokens need.

        Returns the longest run of sequences, from the first on, whose images fit the pool together. Raises ValueError
        if those of the first alone do not.
        """
        pinned: set[bytes] = set()
        missing: list[tuple[PatchedImage, np.ndarray]] = []
        batch: list[Sequence] = []
        for sequence in sequences:
            refs = _next_images(sequence, width)
            pinned.update(ref.key for ref in refs)
            if not self._claim(sequence, refs, pinned, missing):
                break
            batch.append(sequence)
        self._encode(missing)
        if not batch:
            raise ValueError(f"the images of one chunk exceed visual_tokens={self.settings.visual_tokens}; raise it")
        return batch

    def rows(self, sequence: Sequence, here: slice) -> np.ndarray:
        """int32, the pool's row for each token of a range that `load` has loaded; -1 = text."""
        numbers, inner = sequence.image_number[here], sequence.image_token[here]
        rows = np.full(len(numbers), -1, np.int32)
        for number in np.unique(numbers[numbers >= 0]):
            pool_rows = self._table.get(sequence.images[number].key)
            if pool_rows is None:
                raise ValueError(f"image {number} is not loaded")
            ours = numbers == number
            rows[ours] = pool_rows[inner[ours]]
        return rows

    def clear(self) -> None:
        """Forgets all: the weights that encoded the images are gone."""
        self._table.clear()

    def _claim(
        self,
        sequence: Sequence,
        refs: Items[ImageRef],
        pinned: Collection[bytes],
        missing: list[tuple[PatchedImage, np.ndarray]],
    ) -> bool:
        for ref in refs:
            if self._table.get(ref.key) is not None:
                self.hits += 1
                continue
            rows = self._table.allocate(ref.key, ref.tokens, pinned)
            if rows is None:
                return False
            patch = sequence.patches.get(ref.key)
            if patch is None:  # it was read before, and is read again after an eviction
                patch = patchify(ref.image, self.config.vision, self.settings.min_pixels, self.settings.max_pixels)
            missing.append((patch, rows))
        return True

    def _encode(self, images: Items[tuple[PatchedImage, np.ndarray]]) -> None:
        self.encoded += len(images)
        smallest = 0
        for most, length in sorted(self.settings.image_shapes, key=lambda shape: shape[1]):
            here = [item for item in images if smallest < len(item[0].patches) <= length]
            smallest = length
            while here:
                count = 1 if self.settings.images_apart else len(here)
                while place([len(patch.patches) for patch, _ in here[:count]], length)[1] > most:
                    count -= 1
                self._encode_call(here[:count], (most, length))
                here = here[count:]

    def _encode_call(self, items: Items[tuple[PatchedImage, np.ndarray]], shape: tuple[int, int]) -> None:
        vision = vision_inputs(self.config.vision, [patch for patch, _ in items], pad_to=shape)
        rows_M = np.full(len(vision.token_place_M), self.settings.visual_tokens, np.int32)
        rows = np.concatenate([rows for _, rows in items])
        rows_M[: len(rows)] = rows
        self._device.encode(vision, rows_M)


def _next_images(sequence: Sequence, width: int) -> list[ImageRef]:
    numbers = sequence.image_number[sequence.filled : sequence.filled + min(width, sequence.unread)]
    return [sequence.images[number] for number in np.unique(numbers[numbers >= 0])]
