"""Rollouts of training that are kept: within their bound, spread over the run, whole or refused by name."""

import gzip
from dataclasses import replace
from itertools import pairwise

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.records import read_records
from hypereyes_jax.eval.report import collect
from hypereyes_jax.eval.rollout_files import (
    TRAINING,
    drop_rollouts,
    read_rollouts,
    rollout_steps,
    sampled_steps,
    write_rollouts,
)
from tests.eval.sample_run import write_run


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("run"), questions=2, steps=2)
    return list(read_records(run / "trajectories-rl-heldout.jsonl"))


def steps(folder):
    return [step for step, _ in rollout_steps(folder)]


def test_what_was_kept_comes_back(tmp_path, records):
    write_rollouts(tmp_path, 7, records, 2**30)
    ((step, path),) = rollout_steps(tmp_path)
    assert (step, list(read_rollouts(path))) == (7, records)


def test_beyond_the_bound_steps_between_others_go_and_the_rest_spreads_evenly(tmp_path, records):
    write_rollouts(tmp_path, 0, records, 2**30)
    size = rollout_steps(tmp_path)[0][1].stat().st_size
    for step in range(1, 33):
        write_rollouts(tmp_path, step, records, 5 * size + size // 2)
    kept = steps(tmp_path)
    assert len(kept) == 5
    assert (kept[0], kept[-1]) == (0, 32)
    gaps = [b - a for a, b in pairwise(kept)]
    assert max(gaps) <= 2 * 32 / 4 + 1


def test_steps_that_are_run_again_are_dropped_first(tmp_path, records):
    for step in range(4):
        write_rollouts(tmp_path, step, records[:1], 2**30)
    drop_rollouts(tmp_path, 2)
    assert steps(tmp_path) == [0, 1]


def test_the_sampled_steps_are_spread_over_the_run():
    made = [(step, None) for step in range(100)]
    assert [step for step, _ in sampled_steps(made, 5)] == [0, 25, 50, 74, 99]
    assert sampled_steps(made[:3], 5) == made[:3]
    assert [step for step, _ in sampled_steps(made, 1)] == [99]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: b"plain", "damaged"),
        (lambda: gzip.compress(b"{}\n"), "line 1 is not a trajectory record"),
        (lambda: gzip.compress(b"[\n"), "line 1 is damaged"),
        (lambda: gzip.compress(b"x" * 1000)[:-12], "cut off"),
        (lambda: gzip.compress(b" " * (2**28 + 1)), "unpacks to more than"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, why):
    path = tmp_path / "step-000001.jsonl.gz"
    path.write_bytes(content())
    with pytest.raises(UserError, match=rf"step-000001\.jsonl\.gz.*{why}"):
        list(read_rollouts(path))


def test_the_report_shows_them_best_first_with_what_they_earned(tmp_path, records):
    group = [replace(records[0], stage=TRAINING, split="step 3", extra={"reward": reward}) for reward in (0.1, 0.9)]
    write_rollouts(tmp_path, 3, [*group, replace(records[1], stage=TRAINING, extra={"reward": "high"})], 2**30)
    report = collect(tmp_path)
    assert [question["split"] for question in report.questions] == ["training, step 3"] * 2
    assert [run["worth"] for run in report.questions[0]["runs"]] == [["reward +0.900"], ["reward +0.100"]]
    assert report.questions[1]["runs"][0]["worth"] == []
