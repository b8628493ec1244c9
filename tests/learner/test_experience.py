"""Scoring of groups: what is valid, what counts as failed, what the references learn."""

import numpy as np
import pytest

from hypereyes_jax.configs.reward import RewardConfig
from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, StopReason, TurnRecord
from hypereyes_jax.learner.experience import observe, score_group, summary, trained_groups
from hypereyes_jax.processing.types import ContextChunk, SampledChunk
from hypereyes_jax.rl.references import ReferenceStore
from hypereyes_jax.rollout.types import Trajectory

QUESTION = Question("q", "?", (), ("A",))


def rollout(widths, answer="A", stop=StopReason.ANSWERED, malformed=0):
    """`widths`: searches of each tool round. `malformed`: further turns whose call can't be read."""
    turns = [TurnRecord("", "r", (Invocation("text_search", "x"),) * width, True) for width in widths]
    turns += [TurnRecord("", "r", (), False, malformed="the tool call is not valid JSON")] * malformed
    if answer is not None:
        turns.append(TurnRecord("", "r", (), False))
    zeros = np.zeros(2, np.float32)
    chunks = (ContextChunk(np.arange(3)), SampledChunk(np.arange(2), zeros, zeros, np.zeros(2, np.int32)))
    return Trajectory(chunks, EpisodeResult(QUESTION, tuple(turns), stop, answer))


def test_the_published_group_of_eight_is_reproduced():
    # id 41 of the published reward's outputs: reference 2 rounds, 4 searches
    group = [
        rollout([3]), rollout([2, 2]), rollout([2, 1]), rollout([2, 2, 1]), rollout([]),
        rollout([1, 1], "B"), rollout([1] * 5, "B"), rollout([], None, StopReason.NO_ACTION),
    ]  # fmt: skip
    scored = score_group(group, [True] * 5 + [False, False, None], (2, 4))
    np.testing.assert_allclose(scored.reward_G, [1.2, 1.05, 1.125, 0.98, 1.0, 0, -0.1, -0.5], atol=1e-6)
    np.testing.assert_allclose(
        scored.advantage_G, [0.895, 0.674, 0.785, 0.570, 0.600, -0.879, -1.027, -1.618], atol=6e-4
    )
    assert scored.failed_G.tolist() == [False] * 5 + [True] * 3


def test_failures_of_the_world_and_of_the_judge_are_left_out():
    group = [
        rollout([1]),
        rollout([1], "B"),
        rollout([2], None, StopReason.INFRASTRUCTURE),
        rollout([1], "A"),
    ]
    scored = score_group(group, [True, False, None, None], (1, 1))
    assert scored.valid_G.tolist() == [True, True, False, False]
    assert scored.advantage_G[2:].tolist() == [0, 0]
    assert not scored.failed_G[2:].any()
    assert len(scored.samples()) == 2
    assert summary([scored])["masked"] == 0.5
    assert summary([scored])["accuracy"] == 0.5


def test_a_rollout_that_outgrew_its_slot_is_masked_and_counted():
    group = [rollout([1]), rollout([1], "B"), rollout([4], None, StopReason.CONTEXT_LIMIT)]
    scored = score_group(group, [True, False, None], (1, 1))
    assert scored.valid_G.tolist() == [True, True, False]
    assert scored.advantage_G[2] == 0
    assert not scored.failed_G[2]
    assert len(scored.samples()) == 2
    assert summary([scored])["outgrown"] == pytest.approx(1 / 3)
    assert summary([scored])["format_failures"] == 0


def test_references_learn_from_right_valid_rollouts_only():
    references = ReferenceStore({"q": (3, 6)})
    group = [rollout([1], "B"), rollout([2, 2]), rollout([], "A"), rollout([1], None, StopReason.INFRASTRUCTURE)]
    observe(references, "q", score_group(group, [False, True, True, None], (3, 6)))
    assert references.get("q") == (3, 6)
    references.commit()
    assert references.get("q") == (2, 4)


def test_a_fake_call_and_a_guess_earn_less_than_the_honest_rollout_and_teach_nothing():
    group = [rollout([2]), rollout([], malformed=1), rollout([])]
    scored = score_group(group, [True, True, True], (1, 2))
    assert scored.tool_G == pytest.approx([0.20, 0.0, 0.0])
    assert scored.reward_G == pytest.approx([1.20, 0.90, 1.00])  # R_fmt of one call that can't be read: -0.1
    references = ReferenceStore({"q": (2, 4)}, "step")
    observe(references, "q", score_group(group[1:], [True, True], (2, 4)))
    assert references.get("q") == (2, 4)


@pytest.mark.parametrize(
    ("turns", "answer", "config", "reward"),
    [
        (3, "A", RewardConfig(), 1 - 0.3),
        (8, "A", RewardConfig(), 1 - 0.5),  # never more than a reply without an answer costs
        (8, None, RewardConfig(), -0.5),  # which has paid already
        (1, "A", RewardConfig(malformed_call=-0.25), 0.75),
        (1, "A", RewardConfig(malformed_call=0.0), 1.0),
        (1, "A", RewardConfig("cost-weighted"), 0.9),
    ],
)
def test_calls_that_cannot_be_read_cost_by_the_turn(turns, answer, config, reward):
    stop = StopReason.ANSWERED if answer else StopReason.NO_ACTION
    scored = score_group([rollout([], answer, stop, malformed=turns), rollout([1])], [True, True], (1, 1), config)
    assert scored.reward_G[0] == pytest.approx(reward)


def test_equal_rewards_make_a_dead_group():
    scored = score_group([rollout([1]), rollout([1])], [True, True], (1, 1))
    assert scored.is_dead
    assert summary([scored])["dead_groups"] == 1


def test_cost_weighted_reward_knows_no_reference():
    scored = score_group([rollout([1, 1]), rollout([1])], [True, True], (1, 1), RewardConfig("cost-weighted", beta=0.1))
    assert scored.reward_G == pytest.approx([0.8, 0.9])


def test_dynamic_sampling_takes_groups_that_teach_something_first():
    right = score_group([rollout([1]), rollout([1])], [True, True], (1, 1))  # dead
    wrong = score_group([rollout([1], "B"), rollout([1], "B")], [False, False], (1, 1))  # dead, but failed
    mixed = score_group([rollout([1]), rollout([1], "B")], [True, False], (1, 1))
    assert [each.is_dead for each in (right, wrong, mixed)] == [True, True, False]
    groups = [right, wrong, mixed, right, mixed]
    assert trained_groups(groups, 2, distils=False) == {2, 4}
    assert trained_groups(groups, 3, distils=True) == {1, 2, 4}
    assert trained_groups(groups, 3, distils=False) == {0, 2, 4}  # filled up, so that a step has its size
    assert trained_groups(groups, 5, distils=False) == {0, 1, 2, 3, 4}
