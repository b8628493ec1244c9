import json

import pytest
from scipy.stats import binomtest

from hypereyes_jax.env.types import StopReason
from hypereyes_jax.eval import Judged, cost_aware_score, summarise, trajectory_tokens, wilson_interval
from tests.eval.trajectories import mosaic, trajectory


def test_cost_aware_score_is_the_published_formula():
    # 0.8^2 = 0.64; 3 + 2 * 2 + 1 = 8
    assert cost_aware_score(0.8, 3.0, 2.0) == pytest.approx(8.0)
    assert cost_aware_score(1.0, 0.0, 0.0) == 100.0


def test_cost_aware_score_refuses_percentages_and_negative_costs():
    with pytest.raises(ValueError, match="between 0 and 1"):
        cost_aware_score(80.0, 3.0, 2.0)
    with pytest.raises(ValueError, match="negative"):
        cost_aware_score(0.8, -1.0, 2.0)


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (1, 3), (55, 200), (199, 200), (0, 1)])
def test_wilson_interval_agrees_with_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_of_nothing_knows_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(3, 2)


def test_an_image_counts_with_all_its_visual_tokens():
    t = trajectory(images=[mosaic(), mosaic()])
    # 10 + 3 given, 4 written; two of the ten are placeholders for 7 visual tokens each
    assert trajectory_tokens(t, lambda image: 7) == 17 + 2 * 6


def test_masked_trajectories_enter_no_mean():
    judged = [
        Judged(trajectory(searches=(2,)), True, "", 1000),
        Judged(trajectory(searches=(1, 1), answer="Chad"), False, "", 3000),
        Judged(
            trajectory(stop=StopReason.INFRASTRUCTURE, searches=(1,) * 8, answer=None), None, "infrastructure", 9000
        ),
        Judged(trajectory(), None, "judge", 9000),
    ]
    summary = summarise(judged, wall_seconds=5.0)
    assert (summary.n, summary.masked_infrastructure, summary.masked_judge) == (2, 1, 1)
    assert (summary.accuracy, summary.rounds, summary.invocations, summary.kilo_tokens) == (0.5, 1.5, 2.0, 2.0)
    assert summary.cas == pytest.approx(100 * 0.25 / (2 + 3 + 1))
    assert (summary.accuracy_low, summary.accuracy_high) == pytest.approx(wilson_interval(1, 2))
    assert summary.rounds_histogram == {"1": 1, "2": 1}


def test_failure_kinds_are_counted():
    judged = [
        Judged(trajectory(searches=(2,), malformed="not JSON", error="crop failed"), True, "", 0),
        Judged(trajectory(stop=StopReason.TURN_LIMIT, answer=None), False, "", 0),
    ]
    summary = summarise(judged)
    assert summary.stops == {"answered": 1, "turn_limit": 1}
    assert summary.wrong_by_stop == {"turn_limit": 1}
    assert (summary.malformed_calls, summary.failed_searches) == (1, 2)


def test_the_summary_of_nothing_is_still_json():
    assert json.loads(json.dumps(summarise([]).to_json(), allow_nan=False))["n"] == 0


@pytest.mark.parametrize("n", [1, 3, 7, 300])
def test_the_bound_of_none_or_all_right_is_exact(n):
    assert wilson_interval(0, n)[0] == 0.0
    assert wilson_interval(n, n)[1] == 1.0
