"""Which pages of the cache hold what each slot's sequence has read. Host bookkeeping only.

A page belongs to the sequence that writes it. Others whose record begins alike may hold it too: they read it as far as
they were told, and never write there, so a page that is theirs only in part is copied. A page is free when nobody holds
it. Each part of a replica's devices has pages of its own (`slot_layout`), numbered from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from hypereyes_jax.configs.rollout import EngineConfig
from hypereyes_jax.errors import SettingError
from hypereyes_jax.rollout.cache.slot_layout import SlotLayout


class CachedPositions(NamedTuple):
    """Where the first positions of a sequence are."""

    part: int  # of the replica's devices
    pages: tuple[int, ...]
    positions: int


class PageTable:
    """The pages of all slots, and who holds them.

    Args:
      layout: the part of each slot.
      pages: of each part.
      page_tokens: positions of a page.
    """

    def __init__(self, layout: SlotLayout, pages: int, page_tokens: int):
        self._layout, self.page_tokens = layout, page_tokens
        self._free = [list(reversed(range(pages))) for _ in range(layout.parts)]  # the last one is the next
        self._holders = [[0] * pages for _ in range(layout.parts)]
        self._of: dict[int, list[int]] = {}

    def free(self, part: int) -> int:
        """Pages of a part that nobody holds."""
        return len(self._free[part])

    def count(self, positions: int) -> int:
        """Pages that so many positions take."""
        return -(-positions // self.page_tokens)

    def of(self, slot: int) -> list[int]:
        """The pages of a slot, in the order of their positions."""
        return self._of.get(slot, [])

    def first(self, slot: int, positions: int) -> CachedPositions:
        """The pages of a slot's first positions. They stay with the slot: see `hold`."""
        return CachedPositions(self._layout.part(slot), tuple(self.of(slot)[: self.count(positions)]), positions)

    def grow(self, slot: int, positions: int) -> None:
        """Gives a slot the pages that it lacks for so many positions. Raises MemoryError if there are too few."""
        part, own = self._layout.part(slot), self._of.setdefault(slot, [])
        lacking = self.count(positions) - len(own)
        if lacking > self.free(part):
            raise MemoryError(f"{lacking} pages are needed for a slot, and {self.free(part)} are free")
        for _ in range(lacking):
            page = self._free[part].pop()
            self._holders[part][page] = 1
            own.append(page)

    def release(self, slot: int) -> None:
        """Takes back all pages of a slot; those that others hold stay theirs."""
        self._drop(self._layout.part(slot), self._of.pop(slot, []))

    def hold(self, cached: CachedPositions) -> None:
        """Keeps pages from being free until `drop`."""
        for page in cached.pages:
            self._holders[cached.part][page] += 1

    def drop(self, cached: CachedPositions) -> None:
        """Ends a `hold`."""
        self._drop(cached.part, cached.pages)

    def held_by_sequences(self, part: int, kept: Iterable[CachedPositions]) -> set[int]:
        """Pages of a part that others hold than those who keep these."""
        keepers = Counter(page for each in kept if each.part == part for page in each.pages)
        return {page for page, count in enumerate(self._holders[part]) if count > keepers[page]}

    def begin_with(self, slot: int, cached: CachedPositions, count: int) -> list[tuple[int, int]]:
        """Lets a slot begin with the first `count` positions of others, instead of what it had.

        Returns the pages to be copied, (of `cached.part`, of the slot's part): one if `count` ends within a page; all
        of them if the parts differ. Raises MemoryError as `grow`.
        """
        part = self._layout.part(slot)
        whole = count // self.page_tokens if part == cached.part else 0
        shared = cached.pages[:whole]
        self.hold(CachedPositions(part, shared, count))
        self.release(slot)
        self._of[slot] = list(shared)
        self.grow(slot, count)
        return list(zip(cached.pages[whole : self.count(count)], self._of[slot][whole:], strict=True))

    def _drop(self, part: int, pages: list[int] | tuple[int, ...]) -> None:
        for page in reversed(pages):
            self._holders[part][page] -= 1
            if not self._holders[part][page]:
                self._free[part].append(page)


def pages_of_part(settings: EngineConfig, parts: int) -> int:
    """Pages that each part of a replica's devices has room for: a sequence of the greatest length, at least.

    Raises SettingError if `cache_tokens` says less.
    """
    if not settings.cache_tokens:
        # a slot more than are given out: for the echo check, and for prompts kept for later
        return (settings.slots // parts + 1) * settings.slot_pages
    pages = settings.cache_tokens // parts // settings.page_tokens
    if pages < settings.slot_pages:
        least = settings.slot_pages * settings.page_tokens * parts
        raise SettingError(
            f"cache_tokens={settings.cache_tokens} gives each of {parts} parts of a replica {pages} pages of "
            f"{settings.page_tokens} tokens, and a rollout of context={settings.context} may take "
            f"{settings.slot_pages}: choose --sizes.cache-tokens {least} or more"
        )
    return pages
