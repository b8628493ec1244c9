"""Rollouts that run on while the learner trains: groups start ahead of their step, and a long one holds no step up.

The engines stay in use from the first step to the last. New weights reach them between two decode calls, and a rollout
under way goes on with them: each of its tokens carries the version of the weights that sampled it, and the loss weighs
each token by what the learner's weights say of it (`rl.importance`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from hypereyes_jax.env.types import Question
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.train.group_queue import GroupQueue

OnEnd = Callable[[int, Trajectory], None]


class GroupPlan(NamedTuple):
    """A group that is to be played."""

    question: Question
    seeds: Sequence[int]  # of its rollouts


class PlayGroup(Protocol):
    """Plays a group's rollouts, and calls `on_end` as each ends."""

    def __call__(self, plan: GroupPlan, on_end: OnEnd) -> Coroutine[Any, Any, list[Trajectory]]: ...


class TakenGroups(NamedTuple):
    """What a step trains on."""

    numbers: list[int]
    trajectories: list[Trajectory]  # group by group
    figures: dict[str, float]  # of what is left under way


class _Group(NamedTuple):
    plan: GroupPlan
    task: asyncio.Task[list[Trajectory]]
    ended: list[int]  # rollouts of it that have ended


class AheadRollouts:
    """The groups under way. Made and used in one event loop; `close` ends what is left.

    Args:
      play: plays one group.
      plan: the group of a number.
      queue: which groups may start, and which a step takes.
      live: rollouts under way at a time, about; at least one group is.
    """

    def __init__(self, play: PlayGroup, plan: Callable[[int], GroupPlan], queue: GroupQueue, live: int):
        self._play, self._plan, self._queue, self._live = play, plan, queue, live
        self._groups: dict[int, _Group] = {}
        self._version = 0
        self._running = 0  # rollouts that have not ended

    def set_version(self, version: int) -> None:
        """The weights that groups start with from now on."""
        self._version = version

    async def take(self, step: int) -> TakenGroups:
        """Waits until a step has its groups, and hands them over. Further groups start meanwhile, and go on after it.

        Raises what the playing of any group raised.
        """
        self._queue.begin(step)
        self._start()
        while True:
            done = [number for number, group in self._groups.items() if group.task.done()]
            for number in done:
                self._groups[number].task.result()
            numbers = self._queue.take(step, done)
            if numbers is not None:
                break
            await asyncio.wait(
                [group.task for group in self._groups.values() if not group.task.done()],
                return_when=asyncio.FIRST_COMPLETED,
            )
        groups = [self._groups.pop(number) for number in numbers]
        trajectories = [trajectory for group in groups for trajectory in group.task.result()]
        late = [self._groups[number] for number in self._queue.overdue(step) if number in self._groups]
        figures = {
            "carried_groups": float(len(late)),
            "carried_rollouts": float(sum(len(group.plan.seeds) - len(group.ended) for group in late)),
            "rollouts_under_way": float(self._running),
        }
        return TakenGroups(numbers, trajectories, figures)

    async def close(self) -> None:
        """Cancels what is under way. The queue's `state` still names it, so that it is played anew."""
        tasks = [group.task for group in self._groups.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._groups.clear()

    def _start(self) -> None:
        """Starts groups as long as there is room. Each rollout that ends may make some."""
        while not self._groups or self._running < self._live:
            number = self._queue.start(self._version)
            if number is None:
                return
            plan = self._plan(number)
            ended: list[int] = []

            def on_end(place: int, _: Trajectory, ended: list[int] = ended) -> None:
                ended.append(place)
                self._running -= 1
                self._start()

            self._running += len(plan.seeds)
            task = asyncio.create_task(self._play(plan, on_end), name=f"group {number}")
            self._groups[number] = _Group(plan, task, ended)
