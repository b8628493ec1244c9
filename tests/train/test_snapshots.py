"""Models on the way: when they are written, which is kept as the best, and what a step back removes."""

import json

import pytest

from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.snapshots import Snapshots


@pytest.fixture
def snapshots(tmp_path):
    def write(out, params, lora):
        out.mkdir(parents=True, exist_ok=True)
        (out / "model").write_text(f"{params} {lora}")

    def made(every=2, done=0):
        return Snapshots(RunDirectory(tmp_path), Processes(), write, every, done)

    return made


def names(path):
    return sorted(each.name for each in (path / "models").iterdir())


def best(path):
    return (path / "best-model" / "model").read_text(), json.loads((path / "best-model.json").read_text())


def test_models_are_written_at_every_so_many_steps(snapshots, tmp_path):
    run = snapshots(every=2)
    for step in range(1, 6):
        run.write_if_due(step, f"w{step}", "l")
    assert names(tmp_path) == ["step-2", "step-4"]
    assert (tmp_path / "models" / "step-4" / "model").read_text() == "w4 l"
    snapshots(every=0, done=5).write_if_due(6, "w", None)
    assert names(tmp_path) == ["step-2", "step-4"]


def test_the_most_accurate_is_kept_and_the_earlier_of_equals(snapshots, tmp_path):
    run = snapshots()
    for step, accuracy in ((1, 0.0), (2, 0.5), (3, 0.5), (4, 0.25)):
        run.keep_if_best(step, accuracy, 0.0, f"w{step}", None)
    assert best(tmp_path) == ("w2 None", {"step": 2, "eval_accuracy": 0.5})
    again = snapshots(done=4)  # after a kill
    again.keep_if_best(5, 0.4, 0.0, "w5", None)
    assert best(tmp_path)[1]["step"] == 2
    again.keep_if_best(6, 0.6, 0.0, "w6", None)
    assert best(tmp_path) == ("w6 None", {"step": 6, "eval_accuracy": 0.6})


def test_an_evaluation_of_which_much_failed_for_outside_reasons_is_compared_with_none(snapshots, tmp_path):
    run = snapshots()
    run.keep_if_best(1, 1.0, 0.5, "w1", None)
    assert not (tmp_path / "best-model").exists()
    run.keep_if_best(2, 0.3, 0.1, "w2", None)
    run.keep_if_best(3, 1.0, 0.11, "w3", None)
    assert best(tmp_path) == ("w2 None", {"step": 2, "eval_accuracy": 0.3})


def test_a_step_back_removes_what_came_after_it(snapshots, tmp_path):
    run = snapshots(every=1)
    for step in (1, 2, 3):
        run.write_if_due(step, "w", None)
    run.keep_if_best(3, 0.9, 0.0, "w", None)
    back = snapshots(every=1, done=2)
    assert names(tmp_path) == ["step-1", "step-2"]
    assert not (tmp_path / "best-model").exists()
    back.keep_if_best(3, 0.1, 0.0, "again", None)
    assert best(tmp_path) == ("again None", {"step": 3, "eval_accuracy": 0.1})
