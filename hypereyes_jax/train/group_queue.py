"""Which groups of rollouts a run starts, and which of them a step trains on, where rollouts run ahead of the learner.

Groups are numbered through the run: group n is question n % prompts of step n // prompts, with that step's seeds, as it
is without running ahead. A step takes the first groups, by number, that have ended. One that has not is carried over to
a later step, but never so far that its weights would be more versions old than allowed: such a group is waited for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hypereyes_jax.errors import UserError


class GroupQueue:
    """The bookkeeping of one run. It starts nothing itself and knows no rollouts, only numbers.

    Args:
      prompts: groups a step trains on.
      steps: of the run.
      ahead: steps whose groups may start before the step under way has trained, at least 1.
      max_staleness: versions that a group's first weights may lie behind those that are trained when it is taken.

    Raises UserError if rollouts of so many steps ahead would always be staler than allowed.
    """

    def __init__(self, prompts: int, steps: int, ahead: int, max_staleness: int):
        if ahead < 1:
            raise ValueError(f"a queue runs at least 1 step ahead, not {ahead}")
        if max_staleness < ahead:
            raise UserError(
                f"rollouts that start {ahead} steps ahead are up to {ahead} versions old when they are trained on, and "
                f"--settings.max-staleness allows {max_staleness}: raise it to at least --settings.ahead, or lower that"
            )
        self._prompts, self._last = prompts, prompts * steps
        self._ahead, self._max_staleness = ahead, max_staleness
        self._carried: list[int] = []  # numbers below `_next` that are not started
        self._next = 0  # all numbers from here on are not started either
        self._limit = 0  # numbers below it may start
        self._born: dict[int, int] = {}  # version of the weights that each group under way was started with
        self._taken: list[int] = []  # by the step under way

    def begin(self, step: int) -> None:
        """A step begins to wait for its groups: those of `ahead` further steps may start."""
        self._limit = min((step + 1 + self._ahead) * self._prompts, self._last)

    def start(self, version: int) -> int | None:
        """The number of the group to start next, with weights of this version; None if none may start now."""
        if self._carried:
            number = self._carried.pop(0)
        elif self._next < self._limit:
            number, self._next = self._next, self._next + 1
        else:
            return None
        self._born[number] = version
        return number

    def take(self, step: int, ended: Collection[int]) -> list[int] | None:
        """The groups that a step trains on, in the order of their numbers; None while it has to wait.

        Args:
          ended: numbers of groups that have ended and were not taken.
        """
        numbers = sorted(ended)[: self._prompts]
        due = {number for number, born in self._born.items() if step - born >= self._max_staleness}
        if len(numbers) < self._prompts or not due <= set(numbers):
            return None
        for number in numbers:
            del self._born[number]
        self._taken = numbers
        return numbers

    def trained(self) -> None:
        """The step under way has trained on what it took."""
        self._taken = []

    def overdue(self, step: int) -> list[int]:
        """Groups under way that would have been this step's or an earlier one's, had they ended."""
        return sorted(number for number in self._born if number < (step + 1) * self._prompts)

    def state(self) -> dict[str, Any]:
        """JSON-able: which groups are still to be trained on. Those under way are to be played anew."""
        waiting = sorted([*self._taken, *self._born, *self._carried])
        return {"carried": waiting, "next": self._next}

    def restore(self, state: Mapping[str, Any] | None, steps: int) -> None:
        """Goes on from `state`, or, with None, after `steps` steps of a run that did not run ahead.

        Raises ValueError if the state does not belong to so many steps.
        """
        earlier: Sequence[int] = [] if state is None else state["carried"]
        first = steps * self._prompts if state is None else state["next"]
        if first - len(earlier) != steps * self._prompts or any(number >= first for number in earlier):
            raise ValueError(f"{state} is not the place of a run after {steps} steps of {self._prompts} groups")
        self._carried, self._next, self._born, self._taken = list(earlier), first, {}, []
