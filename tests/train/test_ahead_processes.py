"""Rollouts ahead in two processes: each plays and takes its own groups, and both know the questions of all."""

import asyncio
import contextlib
import json
import threading
from collections import Counter

import pytest

from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.replicas import ReplicaGroups
from hypereyes_jax.rollout import Timeline
from hypereyes_jax.rollout.types import SchedulerCounts
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.terminal import Terminal
from hypereyes_jax.train.group_queue import GroupQueue
from hypereyes_jax.train.rl_ahead import GroupPlan
from hypereyes_jax.train.rollout_source import RunsAhead, StepDropped, _own_state
from hypereyes_jax.train.settings import RlSettings
from hypereyes_jax.train.step_metrics import Laps
from hypereyes_jax.train.types import TrainingRun
from tests.rollout.stamped import stamped_trajectory

SETTINGS = RlSettings(steps=4, prompts=4, group=2, ahead=1)


class Meeting:
    """Where threads that stand for processes gather."""

    def __init__(self, count):
        self.barrier, self.values = threading.Barrier(count, timeout=60), [None] * count

    def gather(self, index, own):
        self.values[index] = json.dumps(own)
        self.barrier.wait()
        values = [json.loads(value) for value in self.values]
        self.barrier.wait()
        return values


class One(Processes):
    def __init__(self, index, meeting):
        count = len(meeting.values)
        super().__init__(index, count, mesh="a mesh", replicas=ReplicaGroups(index, tuple((n,) for n in range(count))))
        self.meeting = meeting

    def gather(self, own):
        return self.meeting.gather(self.index, own)


class Rollouts:
    """A step's rollouts end in another order in each process; engines work only within `working`."""

    def __init__(self, index):
        self.index, self.played, self.working = index, [], False
        self.counts = [SchedulerCounts()]

    def apart(self, mesh):
        return False

    @contextlib.asynccontextmanager
    async def paused(self):
        self.working = False
        yield
        self.working = True

    async def swap(self, copies, version):
        assert not self.working

    def copies(self, params, lora):
        assert not self.working
        return [], {}

    async def episodes(self, generator, questions, backend, seeds, on_end=None, timeline=None):
        self.played.append(int(questions[0].id))
        await asyncio.sleep(0.002 * ((5 * self.played[-1] + 3 * self.index) % 7))
        while not self.working:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for place in range(len(questions)):
            on_end(place, None)
        return [stamped_trajectory([seed]) for seed in seeds]


def plan(number):
    return GroupPlan(Question(str(number), "?", (), ("x",)), [number * 10, number * 10 + 1])


def play(index, meeting, path, steps, state, stop_before=None):
    """(questions of all and own seeds of each step, what a checkpoint keeps) of one process."""

    async def run():
        processes, rollouts = One(index, meeting), Rollouts(index)
        training = TrainingRun(RunDirectory(path), Stages(Terminal(quiet=True)), processes)
        queue = GroupQueue(2, SETTINGS.steps, 1, SETTINGS.staleness_limit)
        queue.restore(_own_state(state, processes.replicas), steps[0])
        source = RunsAhead(training, rollouts, SETTINGS, None, (rollouts, queue, plan), Timeline())
        await source.pause()
        await source.publish(None, None, steps[0])
        taken = []
        try:
            for step in steps:
                if step == stop_before and index == 1:
                    training.directory.stop.request("a signal")
                got = await source.take(step, Laps(processes))
                assert not rollouts.working
                seeds = [int(chunk.version[0]) for each in got.trajectories for chunk in each.chunks[1:]]
                taken.append(([int(question.id) for question in got.questions], seeds))
                await source.publish(None, None, step + 1)
            return taken, source.state()
        except StepDropped as dropped:
            return taken, (str(dropped), source.state())
        finally:
            await source.close()

    return asyncio.run(run())


def both(path, steps, state=None, stop_before=None):
    meeting, results = Meeting(2), [None, None]

    def one(index):
        results[index] = play(index, meeting, path, steps, state, stop_before)

    threads = [threading.Thread(target=one, args=(index,), daemon=True) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(result is not None for result in results)
    return results


def test_each_takes_its_own_and_all_are_trained_on_once_also_after_an_end(tmp_path):
    first, second = both(tmp_path, [0, 1])
    assert first[1] == second[1]  # what a checkpoint keeps is alike
    later = both(tmp_path, [2, 3], first[1])
    questions = []
    for index, (early, late) in enumerate(zip((first, second), later, strict=True)):
        steps = [*early[0], *late[0]]
        for of_all, seeds in steps:
            own = of_all[index::2]  # as `ReplicaGroups.share` will have it
            assert seeds == [seed for number in own for seed in plan(number).seeds]
            assert {number % 2 for number in own} == {index}
        questions.append([number for of_all, _ in steps for number in of_all])
    assert questions[0] == questions[1]
    assert Counter(questions[0]) == Counter(range(16))


def test_all_stop_where_one_was_asked_to(tmp_path):
    results = both(tmp_path, [0, 1, 2], stop_before=1)
    assert [len(taken) for taken, _ in results] == [1, 1]
    (reason, state), (other, _) = results[0][1], results[1][1]
    assert reason == other == "a signal"
    waiting = [share["next"] - len(share["carried"]) for share in state["shares"]]
    assert waiting == [2, 2]  # so many groups of each were trained on


def test_another_number_of_processes_does_not_go_on():
    state = {"shares": [{"carried": [], "next": 2}, {"carried": [], "next": 2}]}
    with pytest.raises(UserError, match="go on with as many"):
        _own_state(state, ReplicaGroups(0, ((0,), (1,), (2,))))
