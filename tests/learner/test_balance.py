"""Which process packs what: nothing is lost, no process needs more than the plan says, and a step never gets longer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypereyes_jax.learner import balance as module
from hypereyes_jax.learner.balance import balance, moves
from hypereyes_jax.learner.packing import fewest_positions, first_fit_decreasing, micro_batches

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
    each_own = [micro_batches(own, tuple(choices), rows) for own in lengths]
    stay = fewest_positions(each_own)
    positions = max(each[stay] for each in each_own) * stay
    assert plan.micro_batches * plan.row_length <= positions
    if moves(plan.owners):
        assert plan.micro_batches * plan.row_length < positions


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


def test_a_sample_that_no_row_holds_is_told_of():
    with pytest.raises(ValueError, match="120 tokens, more than the longest of the rows"):
        balance([[120], [3]], (64, 100), rows=1)


@pytest.mark.parametrize("mean", [6_000, 10_000, 14_000])
def test_eight_processes_fill_their_rows_with_the_lengths_of_the_papers_size(mean):
    choices = (20_480, 23_552, 26_624, 29_696, 33_792, 38_912, 41_984, 45_056, 49_152, 53_248, 57_344, 61_440)
    shares, moved = [], []
    for seed in range(8):
        drawn = np.exp(np.random.default_rng(seed).normal(np.log(mean) - 0.125, 0.5, 256))
        lengths = np.clip(drawn, 500, 38_912).astype(int).reshape(8, 32).tolist()
        plan = balance(lengths, choices, rows=8)
        shares.append(sum(map(sum, lengths)) / (plan.micro_batches * 64 * plan.row_length))
        moved.append(moves(plan.owners) / 256)
    assert np.mean(shares) >= 0.88
    assert np.mean(moved) <= 0.25
