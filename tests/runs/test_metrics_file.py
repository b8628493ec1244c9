"""Metrics of a run: each step once, in the file and in the trackers."""

import io
from dataclasses import dataclass

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.report import write_report
from hypereyes_jax.runs.metrics import MetricsWriter
from hypereyes_jax.runs.metrics_file import read_metrics
from hypereyes_jax.runs.model_card import model_card
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.trackers import open_trackers
from hypereyes_jax.runs.tracking import Sample, TrackingConfig


@dataclass(frozen=True)
class Config:
    steps: int = 3


def test_metrics_go_to_lines_and_tensorboard(tmp_path):
    run = RunDirectory.open(tmp_path, "rl", Config())
    with MetricsWriter(run, "rl") as metrics:
        metrics.log(0, {"accuracy": 0.5, "gap": float("nan")})
    (row,) = read_metrics(run.file("metrics.jsonl"))
    assert (row["phase"], row["step"], row["rl/accuracy"], row["rl/gap"]) == ("rl", 0, 0.5, None)
    (events,) = run.file("tensorboard").glob("rl/events*")
    assert b"rl/accuracy" in events.read_bytes()


def test_a_continued_run_logs_each_step_once(tmp_path):
    run = RunDirectory.open(tmp_path, "rl", Config())
    with MetricsWriter(run, "sft") as metrics:
        metrics.log(7, {"loss": 1.0})
    with MetricsWriter(run, "rl") as metrics:
        for step in range(5):
            metrics.log(step, {"accuracy": 0.1})
    with open(run.file("metrics.jsonl"), "a") as file:
        file.write('{"phase": "rl", "st')  # killed while writing
    with MetricsWriter(run, "rl", first_step=3) as metrics:
        metrics.log(3, {"accuracy": 0.9})
    rows = read_metrics(run.file("metrics.jsonl"))
    assert [(r["phase"], r["step"]) for r in rows] == [("sft", 7), ("rl", 0), ("rl", 1), ("rl", 2), ("rl", 3)]
    assert rows[-1]["rl/accuracy"] == 0.9


def test_metrics_of_another_run_are_refused_and_stay(tmp_path):
    for name in ("mine", "other"):
        with MetricsWriter(RunDirectory.open(tmp_path / name, "rl", Config()), "rl") as metrics:
            metrics.log(0, {"accuracy": 0.5})
    mine, other = (tmp_path / name / "metrics.jsonl" for name in ("mine", "other"))
    text = mine.read_text() + other.read_text()
    mine.write_text(text)
    run = RunDirectory.open(tmp_path / "mine", "rl", Config())
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 was written by another run.*mine/config\.json"):
        MetricsWriter(run, "rl", first_step=1)
    assert mine.read_text() == text
    with pytest.raises(UserError, match="line 2 was written by another run"):
        write_report(tmp_path / "mine")
    with pytest.raises(UserError, match="line 2 was written by another run"):
        model_card(tmp_path / "mine")


def test_lines_without_a_run_are_anybodys(tmp_path):
    run = RunDirectory.open(tmp_path, "rl", Config())
    run.file("metrics.jsonl").write_text('{"phase": "rl", "step": 0, "rl/accuracy": 0.5}\n')  # of an older version
    with MetricsWriter(run, "rl", first_step=1) as metrics:
        metrics.log(1, {"accuracy": 0.5})
    assert [row["step"] for row in read_metrics(run.file("metrics.jsonl"), run.run)] == [0, 1]


def test_a_full_disk_under_the_metrics_names_the_file(tmp_path):
    metrics = MetricsWriter(RunDirectory.open(tmp_path, "rl", Config()), "rl")
    file, _ = metrics._trackers
    file._file.close()
    file._file = io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True)  # noqa: SIM115
    with pytest.raises(UserError, match=r"metrics\.jsonl.*disk is full"), metrics:
        metrics.log(0, {"accuracy": 1.0})


def test_the_metrics_file_is_a_tracker_among_others(tmp_path):
    RunDirectory.open(tmp_path, "rl", Config())
    for first in (0, 1):  # steps 0 and 1, a crash, and again from the checkpoint of step 1
        (tracker,) = open_trackers(TrackingConfig(tensorboard=False), tmp_path, "rl", first)
        for step in range(first, 2):
            tracker.log(step, {"rl/accuracy": 0.5 + first})
        tracker.log_samples(1, "rl/samples", (Sample("question 1", "Chad"),))
        tracker.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["rl/accuracy"]) for row in rows] == [(0, 0.5), (1, 1.5)]


def test_a_tracker_that_fails_to_close_keeps_no_other_open(tmp_path):
    metrics = MetricsWriter(RunDirectory.open(tmp_path, "rl", Config()), "rl")
    file, tensorboard = metrics._trackers

    def fail():
        raise RuntimeError("the service is gone")

    tensorboard.close = fail
    with pytest.raises(RuntimeError, match="is gone"):
        metrics.close()
    assert file._file.closed


def test_a_torn_last_line_is_left_out_and_another_damaged_one_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = ['{"phase": "rl", "step": 0}\n', '{"phase": "rl", "step": 1}\n']
    path.write_text("".join(whole) + '{"phase": "rl", "st')
    assert [row["step"] for row in read_metrics(path)] == [0, 1]
    path.write_text(whole[0] + '{"st\n' + whole[1])
    with pytest.raises(UserError, match="line 2"):
        read_metrics(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("null", "it holds null, not an object"),
        ('{"phase": "rl"}', "needs 'step'"),
        ('{"phase": "rl", "step": true}', "needs 'step'"),
        ('{"phase": "rl", "step": -1}', "needs 'step'"),
        ('{"step": 1}', "needs 'phase'"),
        ('{"phase": "rl", "step": 1, "rl/x": "high"}', "'rl/x' must be a number or null, not a string"),
        ('{"phase": "rl", "step": 1, "rl/x": NaN}', "NaN"),
        ('{"phase": "rl", "step": 1, "rl/x": 1e999}', "too large"),
        ("[" * 100_000, "nests too deeply"),
        ("[" * 500 + "]" * 500, "nests too deeply"),
    ],
)
def test_a_line_of_another_shape_is_named(tmp_path, line, why):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=rf"metrics\.jsonl, line 1.*{why}"):
        read_metrics(path)
