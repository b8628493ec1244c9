import json
import time

import pytest

from hypereyes_jax.env.search.metrics import SearchMetrics
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.replicas import ReplicaGroups
from hypereyes_jax.train.step_metrics import Laps, over_processes, searches_so_far


class Told(Processes):
    """One of three processes; the others say what they are made to say."""

    def __init__(self, others, groups=((0,), (1,), (2,))):
        super().__init__(0, 3, replicas=ReplicaGroups(0, groups))
        self.others = others

    def gather(self, own):
        return json.loads(json.dumps([own, *self.others]))


def searched(kind, count):
    metrics = SearchMetrics()
    for _ in range(count):
        metrics.record("text_search", kind, 0.1)
    return metrics


def test_figures_are_those_of_all_processes():
    # the third follows the second: it plays nothing
    others = [
        [{"seconds_generation": 3.0, "seconds_sync": 0.3, "host_peak_gib": 9.0, "sync_gib": 2.0}, 4, 8.0],
        [{"seconds_generation": 90.0, "seconds_sync": 0.6, "host_peak_gib": 1.0, "sync_gib": 2.0}, 0, 0.5],
    ]
    own = {"seconds_generation": 1.0, "seconds_sync": 0.0, "host_peak_gib": 4.0, "sync_gib": 1.0}
    found = over_processes(Told(others, ((0,), (1, 2))), own, 12, 2.0, searched("result", 3))
    assert found["seconds_generation"] == 2.0
    assert found["seconds_sync"] == pytest.approx(0.3)
    assert (found["host_peak_gib"], found["sync_gib"]) == (9.0, 5.0)
    assert found["rollouts_per_second"] == 16 / 8.0
    assert found["search_searches"] == 3


def test_searches_are_those_of_all_processes_and_of_before_a_checkpoint():
    others = [searched("timeout", 4).state(), searched("result", 1).state()]
    whole = searches_so_far(Told(others), searched("result", 2), searched("empty", 3).state())
    summary = whole.summary()
    assert (summary["searches"], summary["failures"], summary["empty"]) == (10, {"timeout": 4}, 3)


def test_laps_add_up_to_the_step_and_waiting_is_told_apart():
    processes = Processes()
    began = time.perf_counter()
    laps = Laps(processes)
    time.sleep(0.02)
    processes.waited_seconds += 0.015  # in a `gather` among the work
    assert 0.004 < laps.lap("judging") < 1
    time.sleep(0.01)
    laps.lap("generation")
    laps.move(0.004, "generation", "search")
    whole = time.perf_counter() - began
    seconds = laps.seconds()
    assert seconds["seconds_waiting"] == pytest.approx(0.015)
    assert seconds["seconds_search"] == pytest.approx(0.004)
    assert sum(seconds.values()) == pytest.approx(whole, abs=0.002)
    assert all(value > 0 for value in seconds.values())
