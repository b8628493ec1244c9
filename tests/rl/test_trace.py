import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypereyes_jax.rl import TraceConfig, cost_weighted_reward, group_relative_advantage, trace_reward

VECTORS = json.loads((Path(__file__).parent / "data" / "trace_vectors.json").read_text())
GROUPS = VECTORS["groups"]
# Published values are rounded to four decimals (5e-5); the rest is float32.
TOLERANCE = 6e-5
PUBLISHED = TraceConfig()

trace = jax.jit(trace_reward, static_argnames="config")  # references are traced: one program for a group size


def by_size(groups=GROUPS):
    """The published groups, those of one size stacked: accuracy, rounds, invocations, references, groups."""
    for size in sorted({len(g["rollouts"]) for g in groups}):
        same = [g for g in groups if len(g["rollouts"]) == size]
        column = lambda key, same=same: np.array([[r[key] for r in g["rollouts"]] for g in same])  # noqa: E731
        references = [np.array([g[key] for g in same]) for key in ("ref_c", "ref_s")]
        yield column("acc").astype(np.float32), column("tc"), column("ts"), *references, same


def reward(rollouts, reference, **options):
    accuracy, rounds, invocations = (np.array(column) for column in zip(*rollouts, strict=True))
    return trace(accuracy.astype(np.float32), rounds, invocations, *reference, **options)


def mismatches(config=PUBLISHED, forget_invocations=False):
    """Ids of the published groups that are not reproduced."""
    wrong = []
    for accuracy, rounds, invocations, ref_c, ref_s, groups in by_size():
        rewards = trace(accuracy, rounds, invocations * (not forget_invocations), ref_c, ref_s, config=config)
        for tool, total, group in zip(*map(np.asarray, rewards), groups, strict=True):
            if max(np.abs(tool - group["r_tool"]).max(), np.abs(total - group["total"]).max()) > TOLERANCE:
                wrong.append(group["id"])
    return wrong


def test_every_published_group_is_reproduced():
    assert len(GROUPS) > 80
    assert mismatches() == []


@pytest.mark.parametrize(
    "change",
    [
        {"band": 2.0},
        {"efficient_low": 0.06},
        {"redundant_high": -0.03},
        {"wrong_penalty": 0.0},
        {"format_failure": -0.6},
    ],
    ids=str,
)
def test_the_published_groups_notice_a_changed_constant(change):
    assert mismatches(TraceConfig(**change))


def test_the_published_groups_notice_forgotten_invocations():
    assert mismatches(forget_invocations=True)


def test_group_of_eight_by_hand():
    rollouts = [(1, 1, 3), (1, 2, 4), (1, 2, 3), (1, 3, 5), (1, 0, 0), (0, 2, 2), (0, 5, 5), (-0.5, 0, 0)]
    tool, total = reward(rollouts, (2, 4))
    np.testing.assert_allclose(tool, [0.2, 0.05, 0.125, -0.02, 0, 0, -0.1, 0], atol=1e-7)
    np.testing.assert_allclose(total, [1.2, 1.05, 1.125, 0.98, 1.0, 0, -0.1, -0.5], atol=1e-6)


def test_values_are_not_rounded():
    tool, _ = reward([(1, 3, 3), (1, 3, 5), (1, 4, 4), (1, 6, 9)], (2, 4))
    np.testing.assert_allclose(tool, [-0.02, -0.02 - 0.08 / 3, -0.02 - 0.16 / 3, -0.1], atol=1e-7)


@pytest.mark.parametrize(("ref", "top"), [(1, 1), (2, 3), (3, 4), (4, 6), (5, 7), (6, 9), (8, 12)])
def test_the_band_of_wrong_answers_ends_at_one_and_a_half_references_truncated(ref, top):
    tool, _ = reward([(0, c, c) for c in (ref - 1, ref, top, top + 1)], (ref, 99))
    np.testing.assert_allclose(tool, [-0.1, 0, 0, -0.1], atol=1e-7)


def test_without_a_reference_tool_users_are_redundant_or_left_alone_on_request():
    rollouts = [(1, 1, 1), (1, 0, 0), (0, 3, 3), (-0.5, 1, 1)]
    np.testing.assert_allclose(reward(rollouts, (-1, -1))[1], [0.98, 1.0, -0.1, -0.5], atol=1e-6)
    neutral = TraceConfig(score_without_reference=False)
    np.testing.assert_allclose(reward(rollouts, (-1, -1), config=neutral)[1], [1.0, 1.0, 0.0, -0.5], atol=1e-6)
    np.testing.assert_allclose(reward(rollouts, (2, 4), config=neutral)[1], reward(rollouts, (2, 4))[1])


def test_an_invalid_rollout_takes_no_rank_and_gets_nothing():
    rollouts = [(1, 1, 1), (1, 1, 2), (1, 2, 4), (0, 9, 9)]
    tool, total = reward(rollouts, (2, 4), valid_G=np.array([1, 0, 1, 0]))
    np.testing.assert_allclose(tool, [0.2, 0, 0.05, 0], atol=1e-7)
    np.testing.assert_allclose(total, [1.2, 0, 1.05, 0], atol=1e-6)


def test_leading_axes_and_vmap_give_the_same_as_group_by_group():
    *columns, _ = list(by_size())[-1]
    batched = trace_reward(*columns)[1]
    np.testing.assert_array_equal(batched, jax.jit(jax.vmap(trace_reward))(*columns)[1])
    np.testing.assert_array_equal(batched[5], trace_reward(*(column[5] for column in columns))[1])


def test_references_are_traced_not_compiled_in():
    traces = []

    @jax.jit
    def counted(*columns):
        traces.append(columns)
        return trace_reward(*columns)

    for ref in range(5):
        counted(np.ones(4, np.float32), np.arange(4), np.arange(4), ref, ref + 1)
    assert len(traces) == 1


counts = st.integers(0, 9)
rollout = st.tuples(st.sampled_from([1.0, 0.0, -0.5]), counts, st.integers(0, 30))
reference = st.one_of(st.just((-1, -1)), st.tuples(st.integers(0, 9), st.integers(0, 30)))


@settings(deadline=None, max_examples=150)
@given(st.lists(rollout, min_size=8, max_size=8), reference)
def test_totals_keep_their_order_and_bounds(rollouts, ref):
    tool, total = map(np.asarray, trace(*map(np.array, zip(*rollouts, strict=True)), *ref))
    for (accuracy, rounds, invocations), r, value in zip(rollouts, tool, total, strict=True):
        within = rounds <= ref[0] and invocations <= ref[1]
        if accuracy == -0.5:
            low, high = -0.5, -0.5
        elif accuracy == 0:
            low, high = -0.1, 0.0
        elif rounds == 0:
            low, high = 1.0, 1.0
        else:
            low, high = (1.05, 1.20) if within else (0.90, 0.98)
            assert (r > 0) == within
        assert low - 1e-6 <= value <= high + 1e-6


@settings(deadline=None, max_examples=150)
@given(st.lists(rollout, min_size=8, max_size=8), reference, st.permutations(range(8)))
def test_a_cheaper_correct_rollout_of_the_same_set_never_earns_less_and_order_does_not_matter(rollouts, ref, order):
    total = np.asarray(trace(*map(np.array, zip(*rollouts, strict=True)), *ref)[1])
    shuffled = [rollouts[i] for i in order]
    np.testing.assert_array_equal(trace(*map(np.array, zip(*shuffled, strict=True)), *ref)[1], total[list(order)])
    for within in (True, False):
        users = [
            ((c, s), total[i])
            for i, (a, c, s) in enumerate(rollouts)
            if a > 0 and c > 0 and (c <= ref[0] and s <= ref[1]) == within
        ]
        for key, value in users:
            assert all(value > other for worse, other in users if worse > key)
            assert all(value == other for same, other in users if same == key)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones(4), np.ones(4), np.ones(4, int), 1, 1), TypeError, "rounds_G must have an integer dtype"),
        ((np.ones(4), np.ones(3, int), np.ones(4, int), 1, 1), ValueError, "axis G of rounds_G"),
        ((np.float32(1), np.int32(1), np.int32(1), 1, 1), ValueError, r"axes \[..., G\]"),
        ((np.ones((2, 4)), np.ones((2, 4), int), np.ones((2, 4), int), 1, 1), ValueError, "leading axes of ref_rounds"),
    ],
)
def test_misfits_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        trace_reward(*arguments)


def test_cost_weighted_reward_by_hand():
    value = cost_weighted_reward(jnp.array([1.0, 0.0, 1.0]), jnp.array([2, 4, 0]), 1.0, 0.05)
    np.testing.assert_allclose(value, [0.9, -0.2, 1.0], atol=1e-7)
    with pytest.raises(ValueError, match="leading axes of cost"):
        cost_weighted_reward(jnp.ones(3), jnp.ones(2), 1.0, 0.05)


def test_published_totals_give_the_published_advantages():
    for *_, groups in by_size():
        advantage = jax.jit(group_relative_advantage)(np.array([g["total"] for g in groups], np.float32))
        np.testing.assert_allclose(advantage, [g["advantage_f64"] for g in groups], atol=1e-5)
