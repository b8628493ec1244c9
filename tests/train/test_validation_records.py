"""Rollouts of the questions that a policy answers while it trains, as the report reads them."""

from hypereyes_jax.env.types import StopReason
from hypereyes_jax.eval.records import read_records, write_records
from hypereyes_jax.train.rollout_samples import validation_records
from tests.eval.trajectories import trajectory


def test_right_wrong_unjudged_and_failed_rollouts_are_told_apart(tmp_path):
    played = [
        trajectory("right"),
        trajectory("wrong", answer="Sweden"),
        trajectory("silent", answer=None, stop=StopReason.TURN_LIMIT),
        trajectory("unjudged"),
        trajectory("outage", answer=None, stop=StopReason.INFRASTRUCTURE),
    ]
    records = validation_records(played, [True, False, None, None, None], 7, "exact")
    write_records(tmp_path / "t.jsonl", records)
    found = {each.question_id: (each.correct, each.masked) for each in read_records(tmp_path / "t.jsonl")}
    assert found == {
        "right": (True, ""),
        "wrong": (False, ""),
        "silent": (False, ""),  # no answer is wrong
        "unjudged": (None, "judge"),
        "outage": (None, "infrastructure"),
    }
    assert {(each.stage, each.split, each.judge) for each in records} == {("validation", "step 7", "exact")}
    assert (records[0].tokens, records[0].sampled_tokens) == (17, 4)
