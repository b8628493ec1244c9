import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval import Evaluation, Judged, summarise
from hypereyes_jax.eval.records import read_records
from hypereyes_jax.eval.tables import costs_table, evaluated, results_table, save_evaluation
from hypereyes_jax.files import read_json, write_json
from hypereyes_jax.runs.run_directory import RunDirectory
from tests.eval.trajectories import mosaic, trajectory


@dataclass(frozen=True)
class Config:
    seed: int = 0


def evaluation(*verdicts):
    judged = [Judged(trajectory(f"q{i}", images=[mosaic()]), v, "", 900) for i, v in enumerate(verdicts)]
    return Evaluation(summarise(judged), tuple(judged))


def test_stages_gather_beside_what_a_command_added(tmp_path):
    run = RunDirectory.open(tmp_path, "quickstart", Config())
    write_json(run.file("metrics.json"), {"seconds": 12})
    assert not evaluated(run, "base", "heldout")
    save_evaluation(run, "base", "heldout", evaluation(True, False), judge="exact")
    save_evaluation(run, "base", "seen", evaluation(True), judge="exact")
    save_evaluation(run, "rl", "heldout", evaluation(True, True), judge="exact", records=1)
    saved = read_json(run.file("metrics.json"))
    assert saved["seconds"] == 12
    assert saved["stages"]["base"]["heldout"]["accuracy"] == 0.5
    assert saved["stages"]["base"]["heldout"]["judge"] == "exact"
    assert list(saved["stages"]["base"]) == ["heldout", "seen"]
    assert evaluated(run, "base", "heldout")
    assert not evaluated(run, "sft", "heldout")
    (record,) = read_records(run.file("trajectories-rl-heldout.jsonl"))
    assert (record.question_id, record.judge, record.correct) == ("q0", "exact", True)


def test_the_table_shows_each_stage_with_its_interval():
    screen = io.StringIO()
    stages = {"sft": {"heldout": evaluation(True, False).summary.to_json()}}
    Console(file=screen, width=80).print(results_table(stages))
    (row,) = [line for line in screen.getvalue().splitlines() if "SFT" in line]
    # Wilson at 1 of 2: 9.5 to 90.5; one round; 100 * 0.25 / (0.9 + 2 + 1)
    for text in ("held-out", "50.0", "9-91", "1.00", "0.90", "6.4"):
        assert text in row


def test_the_costs_fit_a_narrow_screen_and_tell_what_is_not_known():
    search = {"searches": 1100, "success_rate": 0.991, "latency_p50": 0.21, "latency_p99": None, "cache_hits": 140}
    engine = {"decode": 0.5, "extend": 0.2, "waiting": 0.25, "idle": 0.05}
    row = {"search": {**search, "cost": 1.5}, "engine": engine}
    screen = io.StringIO()
    Console(file=screen, width=80).print(costs_table({"rl": {"heldout_serial": row, "seen": {"n": 3}}}))
    lines = [line.split() for line in screen.getvalue().splitlines() if "RL" in line]
    assert lines == [["RL", "held-out,", "serial", "1100", "99.1", "0.210", "-", "140", "1.50", "70", "25"]]


def outage(scored, masked):
    """An evaluation in which so many questions could not be scored."""
    judged = [Judged(trajectory(f"q{i}", images=[mosaic()]), True, "", 900) for i in range(scored)]
    judged += [Judged(trajectory(f"m{i}", images=[mosaic()]), None, "judge", 900) for i in range(masked)]
    return Evaluation(summarise(judged), tuple(judged))


@pytest.mark.parametrize(("scored", "masked", "is_filed"), [(40, 2, True), (40, 3, False), (3, 1, True), (0, 1, False)])
def test_an_outage_is_never_filed_as_a_result(tmp_path, scored, masked, is_filed):
    run = RunDirectory.open(tmp_path, "eval", Config())
    if is_filed:
        save_evaluation(run, "rl", "heldout", outage(scored, masked), judge="llm")
    else:
        with pytest.raises(UserError, match=rf"{masked} of {scored + masked} questions of rl, heldout could not be"):
            save_evaluation(run, "rl", "heldout", outage(scored, masked), judge="llm")
    assert evaluated(run, "rl", "heldout") == is_filed


def test_a_smoke_run_says_that_its_figures_mean_nothing():
    screen = io.StringIO()
    stages = {"sft": {"heldout": evaluation(True, False).summary.to_json()}}
    Console(file=screen, width=80).print(results_table(stages, smoke=True))
    assert "its figures mean nothing" in " ".join(screen.getvalue().split())
