"""A run's place among its processes when it searches: its name outlives a restart of the command."""

import pytest

from hypereyes_jax.env.search.budget import RunShare
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.replicas import ReplicaGroups
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.rl_run import search_share
from hypereyes_jax.train.types import TrainingRun


class Alone(Processes):
    """A process of four, two of which play; what the first gathers is what it says."""

    def __init__(self, index):
        super().__init__(index, 4, None, ReplicaGroups(index, ((0, 1), (2, 3))))

    def gather(self, own):
        return [own] * 4


def test_a_continued_run_goes_on_with_its_budget_and_another_has_its_own(tmp_path):
    first = TrainingRun(RunDirectory.open(tmp_path / "a", "rl", {}), Stages())
    share = search_share(first)
    assert share == RunShare(0, 1, share.run)
    assert len(share.run) == 32
    assert search_share(first) == share
    assert search_share(TrainingRun(RunDirectory.open(tmp_path / "b", "rl", {}), Stages())).run != share.run
    (tmp_path / "a" / "search_budget.json").write_text("[]")
    with pytest.raises(UserError, match=r"search_budget\.json"):
        search_share(first)


def test_only_those_that_play_have_a_share(tmp_path):
    directory = RunDirectory.open(tmp_path, "rl", {})
    shares = [search_share(TrainingRun(directory, Stages(), Alone(index))) for index in (0, 2)]
    assert [(share.index, share.count) for share in shares] == [(0, 2), (1, 2)]
