"""Which part of a replica's devices each of an engine's slots belongs to, and which row of a call it takes.

A replica that cuts its experts into parts cuts its slots and the rows of its calls likewise: every part attends to its
own rows, and only the experts see all of them (data-parallel attention). So keys and values are held once, however many
devices share the experts. Host bookkeeping only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np

from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class SlotLayout:
    """Slots 0, 1, 2, ... go to the parts in turn, so that an engine with few rollouts keeps all of them busy.

    Slot number `slots`, which is never given out, is for the echo check; it is the first part's.
    """

    slots: int  # that are given out
    parts: int = 1  # of the replica's devices, which each hold as many slots

    def __post_init__(self) -> None:
        if self.slots % self.parts:
            raise UserError(
                f"{self.slots} slots can't be shared out over the {self.parts} parts that a rollout replica cuts its "
                f"experts into: choose --sizes.slots as a multiple of {self.parts}, or fewer --sizes.replica-devices"
            )

    def part(self, slot: int) -> int:
        """The part that holds a slot."""
        return slot % self.parts

    def oldest(self, free: Collection[int]) -> int:
        """The slot to give out: the first of the free ones in a part that has most of them left."""
        free_of_part = Counter(map(self.part, free))
        most = max(free_of_part.values())
        return next(slot for slot in free if free_of_part[self.part(slot)] == most)

    def together(self, slots: Items[int], rows: int) -> list[int]:
        """Indices of those slots that one call of so many rows takes, the first ones first."""
        room = Counter(dict.fromkeys(range(self.parts), -(-rows // self.parts)))
        indices = []
        for index, slot in enumerate(slots):
            if room[self.part(slot)]:
                room[self.part(slot)] -= 1
                indices.append(index)
        return indices

    def row_sizes(self, sizes: Items[int]) -> tuple[int, ...]:
        """Row counts of calls, each rounded up to the same number of rows for every part."""
        return tuple(sorted({-(-size // self.parts) * self.parts for size in sizes}))

    def rows(self, slots: Items[int], sizes: Items[int]) -> tuple[int, np.ndarray]:
        """(rows of the smallest call that takes all of these slots, int64 row of each). Parts take equal runs of rows.

        Args:
          sizes: row counts that there are programs for.

        Raises ValueError if no call takes so many.
        """
        parts = [self.part(slot) for slot in slots]
        needed = self.parts * max(Counter(parts).values(), default=0)
        rows = next((size for size in self.row_sizes(sizes) if size >= needed), 0)
        if not rows:
            raise ValueError(f"{needed} rows exceed the largest call of {tuple(sizes)}")
        counts: Counter[int] = Counter()
        places = []
        for part in parts:
            places.append(part * (rows // self.parts) + counts[part])
            counts[part] += 1
        return rows, np.array(places, np.int64)
