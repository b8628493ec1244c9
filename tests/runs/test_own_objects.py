"""A user's own parts are kept with a run, and it goes on with the same ones only."""

import json
from dataclasses import dataclass

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.own_objects import keep_own_objects
from hypereyes_jax.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class Config:
    steps: int = 1


REWARD = {"role": "reward", "name": "own.py:f", "file": "own.py", "sha256": "a" * 64}


def opened(path):
    return RunDirectory.open(path, "rl", Config())


def test_the_same_objects_go_on_and_others_are_refused(tmp_path):
    with opened(tmp_path) as directory:
        keep_own_objects(directory.path, [REWARD])
        assert json.loads((tmp_path / "objects.json").read_text()) == [REWARD]
        (tmp_path / "metrics.jsonl").write_text("{}\n")
    with opened(tmp_path) as directory:
        keep_own_objects(directory.path, [REWARD])
        for others, why in [
            ([REWARD | {"sha256": "b" * 64}], "source of the reward own.py:f has changed since"),
            ([], "started with the reward own.py:f"),
            ([REWARD, REWARD | {"role": "judge"}], "started without the judge own.py:f"),
        ]:
            with pytest.raises(UserError, match=why):
                keep_own_objects(directory.path, others)


def test_before_any_work_was_done_they_may_be_corrected(tmp_path):
    with opened(tmp_path) as directory:
        keep_own_objects(directory.path, [REWARD])
        keep_own_objects(directory.path, [REWARD | {"sha256": "b" * 64}])
        keep_own_objects(directory.path, [])
        assert json.loads((tmp_path / "objects.json").read_text()) == []
