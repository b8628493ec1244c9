"""Which groups start and which a step takes: bounds on staleness, carrying over, going on after an end."""

import random

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.train.group_queue import GroupQueue


def started(queue, version):
    return list(iter(lambda: queue.start(version), None))


def test_groups_of_the_step_and_of_those_ahead_start_and_no_others():
    queue = GroupQueue(prompts=2, steps=3, ahead=1, max_staleness=1)
    queue.begin(0)
    assert started(queue, 0) == [0, 1, 2, 3]
    assert queue.take(0, {0, 1}) == [0, 1]
    queue.begin(1)
    assert started(queue, 1) == [4, 5]
    assert queue.take(1, {2, 3}) == [2, 3]
    queue.begin(2)
    assert started(queue, 2) == []  # the run ends with three steps


def test_a_step_takes_the_first_groups_that_ended_and_carries_a_long_one_over():
    queue = GroupQueue(prompts=2, steps=9, ahead=1, max_staleness=2)
    queue.begin(0)
    assert started(queue, 0) == [0, 1, 2, 3]
    assert queue.take(0, {3}) is None
    assert queue.take(0, {3, 1, 2}) == [1, 2]
    assert queue.overdue(0) == [0]
    queue.begin(1)
    assert started(queue, 1) == [4, 5]
    assert queue.take(1, {3, 4}) == [3, 4]  # group 0 is one version old
    queue.begin(2)
    assert started(queue, 2) == [6, 7]
    assert queue.take(2, {5, 6, 7}) is None  # it would be three versions old at the next step
    assert queue.take(2, {0, 5, 6, 7}) == [0, 5]


def test_rollouts_ahead_need_as_much_staleness():
    with pytest.raises(UserError, match=r"--settings\.max-staleness allows 1"):
        GroupQueue(prompts=2, steps=9, ahead=2, max_staleness=1)


@pytest.mark.parametrize(("ahead", "max_staleness"), [(1, 1), (1, 3), (3, 4)])
@pytest.mark.parametrize("seed", range(5))
def test_every_group_is_trained_on_once_and_never_too_stale_also_over_ends_of_the_run(ahead, max_staleness, seed):
    """Rollouts end in any order, and the run ends and goes on three times."""
    chance, prompts, steps = random.Random(seed), 3, 12

    def fresh(state, step):
        queue = GroupQueue(prompts, steps, ahead, max_staleness)
        queue.restore(state, step)
        return queue, {}, set()

    def taken_by(step, queue, born, ended):
        queue.begin(step)
        while (chosen := queue.take(step, ended)) is None:
            for number in started(queue, step):
                born[number] = step
            ended.add(chance.choice([number for number in born if number not in ended]))
        return chosen

    (queue, born, ended), taken = fresh(None, 0), []
    for step in range(steps):
        if step in (2, 3, 7):  # what was under way is lost, and the state is all that is left
            queue, born, ended = fresh(queue.state(), step)
        chosen = taken_by(step, queue, born, ended)
        if step == 5:  # it fails before it has trained, and is made again
            queue, born, ended = fresh(queue.state(), step)
            chosen = taken_by(step, queue, born, ended)
        queue.trained()
        for number in chosen:
            assert 0 <= step - born.pop(number) <= max_staleness
            ended.remove(number)
        taken += chosen
        assert len(chosen) == prompts
    assert sorted(taken) == list(range(prompts * steps))


def test_a_run_that_did_not_run_ahead_goes_on_at_its_step():
    queue = GroupQueue(prompts=2, steps=9, ahead=1, max_staleness=1)
    queue.restore(None, steps=3)
    queue.begin(3)
    assert started(queue, 3) == [6, 7, 8, 9]


def test_a_state_of_another_step_is_refused():
    queue = GroupQueue(prompts=2, steps=9, ahead=1, max_staleness=1)
    with pytest.raises(ValueError, match="not the place of a run after 3 steps"):
        queue.restore({"carried": [2], "next": 6}, steps=3)
