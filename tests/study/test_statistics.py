import math

import pytest

from hypereyes_jax.study.statistics import (
    Interval,
    binomial_spread,
    direction,
    mean_interval,
    paired_difference,
    spread,
)


def test_a_paired_difference_is_of_the_questions_that_both_have():
    one, other = {"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 0.0, "b": 0.0, "x": 1.0}
    change = paired_difference(one, other)
    assert change.value == -0.5
    assert (change.low, change.high) == (-1.0, 0.0)
    assert paired_difference(one, {"y": 1.0}) is None


def test_answers_of_several_seeds_to_one_question_are_one_of_the_questions():
    one = {f"{seed}/q{n}": float(n % 2) for n in range(50) for seed in range(4)}
    other = {key: 0.0 for key in one}
    change = paired_difference(one, other)
    by_itself = paired_difference({f"q{n}": float(n % 2) for n in range(50)}, {f"q{n}": 0.0 for n in range(50)})
    assert change == by_itself


def test_pairing_tells_what_two_separate_intervals_do_not():
    """Questions differ widely, and each is half a round shorter in the second run."""
    one = {str(n): float(n % 10) for n in range(100)}
    other = {key: value - 0.5 for key, value in one.items()}
    change = paired_difference(one, other)
    assert (change.value, change.low, change.high) == (-0.5, -0.5, -0.5)
    apart = mean_interval(list(one.values())), mean_interval(list(other.values()))
    assert apart[1].high > apart[0].low  # they overlap


def test_the_bootstrap_interval_of_a_mean_has_the_width_of_the_normal_one():
    values = [float(n % 2) for n in range(400)]
    interval = mean_interval(values)
    half = 1.96 * math.sqrt(0.25 / 400)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)  # 4,000 resamples
    with pytest.raises(ValueError, match="nothing"):
        mean_interval([])


@pytest.mark.parametrize(
    ("low", "high", "expected", "verdict"),
    [(0.1, 0.3, 1, "seen"), (0.1, 0.3, -1, "opposite"), (-0.1, 0.3, 1, "undecided"), (-0.3, -0.1, -1, "seen")],
)
def test_a_direction_is_decided_where_the_interval_excludes_zero(low, high, expected, verdict):
    assert direction(Interval((low + high) / 2, low, high), expected) == verdict


def test_spreads_by_hand():
    assert spread([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert spread([1.0]) == 0.0
    assert binomial_spread(0.5, 100) == 0.05
    assert binomial_spread(0.5, 0) == 0.0
