"""What rollouts spend, and what it costs them."""

import numpy as np
import pytest

from hypereyes_jax.configs.reward import BudgetConfig, OverlongConfig, RewardConfig, check_resources, read_amounts
from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, StopReason, TurnRecord
from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.experience import Experience, score_group
from hypereyes_jax.learner.spending import cost, mean_spending, spending
from hypereyes_jax.processing.types import ContextChunk, SampledChunk
from hypereyes_jax.rollout.types import Trajectory

QUESTION = Question("q", "?", (), ("A",))


def rollout(*turns, written=100, read=500, seconds=2.0):
    """`turns`: the invocations of each."""
    records = tuple(TurnRecord("", "", calls, any(call.sent for call in calls)) for calls in turns)
    zeros = np.zeros(written, np.float32)
    chunks = (
        ContextChunk(np.arange(read)),
        SampledChunk(np.arange(written), zeros, zeros, np.zeros(written, np.int32)),
    )
    return Trajectory(chunks, EpisodeResult(QUESTION, records, StopReason.ANSWERED, "A"), seconds)


IMAGE, TEXT = Invocation("image_search", "img_0"), Invocation("text_search", "x")
ZOOM = Invocation("zoom", "{}", sent=False)
NOT_SENT = Invocation("image_search", "img_9", sent=False, error="there is no image img_9")
BUSY, FRUGAL = rollout((IMAGE, IMAGE, ZOOM), (TEXT, NOT_SENT), ()), rollout((TEXT,), (), written=50)


def test_what_was_sent_is_counted_by_tool():
    assert spending(BUSY) == {
        "rounds": 2, "searches": 3, "kilotokens_read": 0.5, "kilotokens_written": 0.1, "seconds": 2.0,
        "image_search": 2, "text_search": 1, "zoom": 1,
    }  # fmt: skip


def test_costs_are_sums_of_spending_times_price():
    spent = [spending(BUSY), spending(FRUGAL)]
    np.testing.assert_allclose(
        cost(spent, {"image_search": 0.1, "rounds": 0.05, "seconds": 0.01}), [0.32, 0.07], rtol=1e-6
    )
    assert mean_spending(spent, ["image_search", "visit"]) == {"image_search": 1.0, "visit": 0.0}


def test_a_cost_weighted_reward_takes_a_price_list_and_any_effectiveness():
    config = RewardConfig("cost-weighted", alpha=2.0, beta=1.0, prices=("image_search=0.1", "text_search=0.02"))
    scored = score_group([BUSY, FRUGAL], [True, False], (1, 1), config)
    np.testing.assert_allclose(scored.reward_G, [2 - 0.22, -0.02], rtol=1e-5)

    def liked(group):
        """Satisfaction of a user, say."""
        return np.array([0.25, 0.75]), {}

    scored = score_group([BUSY, FRUGAL], [True, False], (1, 1), config, liked)
    np.testing.assert_allclose(scored.reward_G, [0.5 - 0.22, 1.5 - 0.02], rtol=1e-5)


def test_prices_of_a_budget_and_length_are_taken_from_trace():
    plain = score_group([BUSY, FRUGAL], [True, True], (2, 3))
    taxed = score_group([BUSY, FRUGAL], [True, True], (2, 3), prices={"image_search": 0.1})
    np.testing.assert_allclose(taxed.reward_G, plain.reward_G - [0.2, 0.0], rtol=1e-5)
    config = RewardConfig(overlong=OverlongConfig(limit=100, buffer=100, scale=0.4))
    shaped = score_group([BUSY, FRUGAL], [True, True], (2, 3), config)
    np.testing.assert_allclose(shaped.reward_G, plain.reward_G - [0.4, 0.2], rtol=1e-5)


def test_what_was_spent_travels_with_the_numbers_of_a_group():
    scored = score_group([BUSY, FRUGAL], [True, True], (2, 3))
    again = Experience.from_record(scored.record())
    assert list(again.spent) == [spending(BUSY), spending(FRUGAL)]


@pytest.mark.parametrize("pair", ["image_search", "=3", "x=", "x=-1", "x=nan", "x=inf"])
def test_what_is_no_price_is_told(pair):
    with pytest.raises(UserError, match="not a price"):
        read_amounts((pair,), "price", least=0.0)


def test_a_target_must_be_positive_and_stand_once():
    assert BudgetConfig(targets=("rounds=2", "image_search=1.5")).target() == {"rounds": 2.0, "image_search": 1.5}
    with pytest.raises(UserError, match="not a target"):
        BudgetConfig(targets=("rounds=0",)).target()
    with pytest.raises(UserError, match="each name once"):
        BudgetConfig(targets=("rounds=1", "rounds=2")).target()


def test_a_price_of_nothing_is_told():
    check_resources({"rounds": 1.0, "visit": 2.0}, ("visit",), "price")
    with pytest.raises(UserError, match="the price of 'visits' is for nothing"):
        check_resources({"visits": 1.0}, ("visit",), "price")
