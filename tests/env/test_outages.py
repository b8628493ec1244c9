"""An outage is occasional or systematic."""

import pytest

from hypereyes_jax.env import EpisodeResult, Question, StopReason
from hypereyes_jax.env.outages import OutageLimits, OutageWatch, SystematicFailure, mask_reason
from hypereyes_jax.errors import UserError

QUESTION = Question("q", "?", (), ("a",))


def result(stop, answer=None, why=""):
    return EpisodeResult(QUESTION, (), stop, answer, why)


@pytest.mark.parametrize(
    ("episode", "verdict", "reason"),
    [
        (result(StopReason.ANSWERED, "a"), True, ""),
        (result(StopReason.ANSWERED, "a"), False, ""),
        (result(StopReason.ANSWERED, "a"), None, "the judge gave no verdict"),
        (result(StopReason.NO_ACTION), None, ""),
        (
            result(StopReason.INFRASTRUCTURE, why="127.0.0.1:8123 answered HTTP 503"),
            None,
            "127.0.0.1:8123 answered HTTP 503",
        ),
        (
            result(StopReason.INFRASTRUCTURE, why="h2.org gave no result within 20.5 s, 3 times"),
            None,
            "h2.org gave no result within N s, N times",
        ),
        (result(StopReason.INFRASTRUCTURE), None, "the world failed"),
    ],
)
def test_why_a_rollout_counts_nowhere(episode, verdict, reason):
    assert mask_reason(episode, verdict) == reason


def test_up_to_half_of_a_step_may_fail_and_more_ends_the_run_with_counts_by_reason():
    watch = OutageWatch()
    watch.check(["down"] * 4 + [""] * 4)
    with pytest.raises(SystematicFailure, match=r"5 of a step's 8 rollouts failed.*3 x down; 2 x no verdict"):
        watch.check(["down", "", "no verdict", "down", "", "", "no verdict", "down"])


def test_so_many_in_a_row_end_the_run_over_several_steps():
    watch = OutageWatch(OutageLimits(share=1.0, in_a_row=6))
    watch.check(["", "down", "down", "down"])
    watch.check(["", "down"])  # the row was broken
    watch.check(["down"] * 4)
    with pytest.raises(SystematicFailure, match=r"the last 6 rollouts.*6 x down"):
        watch.check(["down"])


def test_a_step_without_rollouts_is_no_failure():
    OutageWatch().check([])


@pytest.mark.parametrize("limits", [{"share": 0.0}, {"share": 1.1}, {"in_a_row": 0}])
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(UserError, match="outage limits"):
        OutageLimits(**limits)
