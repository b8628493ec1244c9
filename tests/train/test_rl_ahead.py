"""Groups that run ahead of the learner: a long rollout holds no step up, versions are counted, an end loses nothing."""

import asyncio

import pytest

from hypereyes_jax.env.types import Question
from hypereyes_jax.train.group_queue import GroupQueue
from hypereyes_jax.train.rl_ahead import AheadRollouts, GroupPlan
from tests.rollout.stamped import stamped_trajectory


class Play:
    """Groups of two rollouts; a rollout ends when the test says so."""

    def __init__(self):
        self.started, self.ends = [], {}

    async def __call__(self, plan, on_end):
        number = int(plan.question.id)
        self.started.append(number)
        self.ends[number] = [asyncio.Event() for _ in plan.seeds]

        async def one(place):
            await self.ends[number][place].wait()
            on_end(place, made := stamped_trajectory([number]))
            return made

        return list(await asyncio.gather(*map(one, range(len(plan.seeds)))))

    def end(self, *numbers):
        for number in numbers:
            for event in self.ends[number]:
                event.set()


def plan(number):
    return GroupPlan(Question(str(number), "?", (), ("x",)), [2 * number, 2 * number + 1])


async def settled():
    for _ in range(9):
        await asyncio.sleep(0)


def ahead_of(play, live, **options):
    queue = GroupQueue(**{"prompts": 2, "steps": 9, "ahead": 1, "max_staleness": 2} | options)
    return AheadRollouts(play, plan, queue, live), queue


def ids(step):
    return [str(number) for number in step.numbers]


def test_a_step_goes_on_with_what_has_ended_and_the_rest_goes_on():
    async def run():
        play = Play()
        rollouts, queue = ahead_of(play, live=8)
        step = asyncio.create_task(rollouts.take(0))
        await settled()
        assert play.started == [0, 1, 2, 3]  # those of the next step, too
        play.end(1)
        play.ends[0][0].set()  # one of group 0's rollouts is long
        await settled()
        assert not step.done()
        play.end(3)
        first = await step
        assert ids(first) == ["1", "3"]
        assert first.figures["carried_groups"] == first.figures["carried_rollouts"] == 1
        assert queue.state() == {"carried": [0, 1, 2, 3], "next": 4}  # the step may still fail
        queue.trained()
        assert queue.state() == {"carried": [0, 2], "next": 4}
        step = asyncio.create_task(rollouts.take(1))
        await settled()
        play.end(0, 2)
        assert ids(await step) == ["0", "2"]
        await rollouts.close()

    asyncio.run(run())


def test_so_many_rollouts_are_under_way_and_an_end_makes_room():
    async def run():
        play = Play()
        rollouts, _ = ahead_of(play, live=4)
        step = asyncio.create_task(rollouts.take(0))
        await settled()
        assert play.started == [0, 1]
        play.ends[0][0].set()
        await settled()
        assert play.started == [0, 1, 2]
        play.end(0, 1)
        assert ids(await step) == ["0", "1"]
        await rollouts.close()

    asyncio.run(run())


def test_what_a_rollout_raises_ends_the_step():
    async def broken(plan, on_end):
        raise ValueError("a defect of a tool")

    async def run():
        rollouts, _ = ahead_of(broken, live=4)
        try:
            await rollouts.take(0)
        finally:
            await rollouts.close()

    with pytest.raises(ValueError, match="a defect of a tool"):
        asyncio.run(run())
