"""Which process packs what: nothing is lost, no process needs more than the plan says, and a step never gets longer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import packing
from hypereyes_jax.learner import balance as module
from hypereyes_jax.learner.balance import balance, moves, stay
from hypereyes_jax.learner.packing import first_fit_decreasing, micro_batches

LENGTHS = st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=12), min_size=1, max_size=5)


@given(LENGTHS, st.sets(st.sampled_from((100, 110, 130, 160, 210)), min_size=1), st.integers(1, 4))
def test_a_plan_holds_what_it_promises_and_is_never_worse_than_staying(lengths, choices, rows):
    if max(choices) < max(map(max, lengths)):
        return
    plan = balance(lengths, tuple(choices), rows)
    assert [len(own) for own in plan.owners] == [len(own) for own in lengths]
    shares = [[] for _ in lengths]
    for own, owners in zip(lengths, plan.owners, strict=True):
        for tokens, owner in zip(own, owners, strict=True):
            shares[owner].append(tokens)
    assert all(shares)
    needs = [micro_batches(share, (plan.row_length,), rows)[plan.row_length] for share in shares]
    assert max(needs) <= plan.micro_batches
    own = stay(lengths, tuple(choices), rows)
    assert moves(own.owners) == 0
    assert plan.micro_batches * plan.row_length <= own.micro_batches * own.row_length
    if moves(plan.owners):
        assert plan.micro_batches * plan.row_length < own.micro_batches * own.row_length


def test_what_does_not_fit_goes_where_there_is_room_and_the_rest_stays():
    plan = balance([[60, 60, 60, 60], [10, 10, 10, 10]], (100,), rows=2)
    assert plan == (100, 1, [[0, 0, 1, 1], [1, 1, 1, 1]])
    assert moves(plan.owners) == 2


def test_nothing_moves_where_a_step_would_be_as_long():
    plan = balance([[60, 60], [10, 10]], (100, 130), rows=2)
    assert plan == (100, 1, [[0, 0], [1, 1]])


def test_rows_of_all_processes_are_shared_out_where_few_moves_do_not_do(monkeypatch):
    monkeypatch.setattr(module, "_with_few_moves", lambda *_: None)
    lengths = [[70, 70, 70, 70], [30, 30, 30, 30], [50, 50, 50, 50]]  # six rows of 100 hold all, exactly
    plan = balance(lengths, (100,), rows=2)
    assert plan.micro_batches == 1
    shares = [[], [], []]
    for own, owners in zip(lengths, plan.owners, strict=True):
        for tokens, owner in zip(own, owners, strict=True):
            shares[owner].append(tokens)
    assert all(len(first_fit_decreasing(share, 100)) == 2 for share in shares)
    assert plan.owners[2] == [2, 2, 2, 2]  # what need not move stays


def test_a_plan_that_leaves_a_process_without_a_sample_is_none():
    assert module._fits([[10], [20, 30]], [[0], [1, 1]], 100, most=1)
    assert not module._fits([[10], [20, 30]], [[1], [1, 1]], 100, most=1)


def test_a_sample_that_no_row_holds_is_told_of():
    with pytest.raises(ValueError, match="120 tokens, more than the longest of the rows"):
        balance([[120], [3]], (64, 100), rows=1)


@pytest.mark.parametrize("mean", [6_000, 10_000, 14_000])
def test_eight_processes_fill_their_rows_with_trajectories_of_the_papers_lengths(mean):
    """`benchmarks/packing.py` over some steps."""
    steps = [packing.parts_of(packing.drawn(mean, seed, spread=0.5), processes=8) for seed in range(10)]
    plans = [balance(parts, packing.LENGTHS["longer"], rows=8) for parts in steps]
    assert np.mean([packing.share(parts, plan) for parts, plan in zip(steps, plans, strict=True)]) >= 0.88
    assert np.mean([moves(plan.owners) for plan in plans]) <= 0.25 * packing.SAMPLES
    own = [stay(parts, packing.LENGTHS["longer"], rows=8) for parts in steps]
    assert np.mean([packing.share(parts, plan) for parts, plan in zip(steps, own, strict=True)]) < 0.8
