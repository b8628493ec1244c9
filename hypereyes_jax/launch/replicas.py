"""Which processes share a rollout replica, and how what is to be played is shared out among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class ReplicaGroups:
    """Groups of processes that share a rollout replica each. A group's first drives it: it plays, the others follow."""

    index: int  # of this process
    groups: tuple[tuple[int, ...], ...]  # process numbers

    @property
    def own(self) -> tuple[int, ...]:
        """The group of this process, its driver first."""
        return next(group for group in self.groups if self.index in group)

    @property
    def drives(self) -> bool:
        """Whether this process plays episodes, and does not work for another one that does."""
        return self.own[0] == self.index

    @property
    def drivers(self) -> list[int]:
        """The processes that play."""
        return [group[0] for group in self.groups]

    def share(self, items: Sequence[Any]) -> list[Any]:
        """This process's part of what is to be played, as `part`. Raises UserError if it does not divide evenly."""
        drivers, count = len(self.groups), sum(map(len, self.groups))
        if len(items) % drivers:
            others = "" if drivers == count else f" that play (of {count})"
            raise UserError(
                f"{len(items)} items a step do not divide among {drivers} processes{others}: choose a multiple of them"
            )
        return list(self.part(items))

    def part(self, items: Any) -> Any:
        """This process's part of a sequence or an array; empty if it does not play."""
        if not self.drives:
            return items[:0]
        return items[self.drivers.index(self.index) :: len(self.groups)]

    def merge(self, shares: list[list[Any]]) -> list[Any]:
        """Undoes `share`: what each process made of its items (`Processes.gather`), in the order of all items."""
        shares_of_drivers = [shares[driver] for driver in self.drivers]
        return [share[place] for place in range(len(shares_of_drivers[0])) for share in shares_of_drivers]
