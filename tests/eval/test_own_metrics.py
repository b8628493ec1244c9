"""A user's metrics of episodes."""

import pytest

from hypereyes_jax.env.types import EpisodeResult, Question, StopReason, TurnRecord
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.own_metrics import load_metrics


def episode(turns):
    return EpisodeResult(
        Question("q", "?", (), ("a",)), (TurnRecord("", "", (), False),) * turns, StopReason.ANSWERED, "a"
    )


def turns(result, correct):
    return len(result.turns)


def test_means_stand_under_the_functions_names():
    metrics = load_metrics([turns])
    name = "metric_turns"
    assert metrics.means([(episode(1), True), (episode(4), None)]) == {name: 2.5}
    assert metrics.means([]) == {}
    assert load_metrics([]).means([(episode(1), True)]) == {}


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda result: 1, "positional argument"),
        (lambda result, correct: float("nan"), "not a finite number"),
        (lambda result, correct: "many", "could not convert"),
        (lambda result, correct: len(result.answer), "made-up episode without an answer: TypeError"),
    ],
)
def test_what_is_no_metric_is_told(function, why):
    with pytest.raises(UserError, match=why):
        load_metrics([function])
