"""Slots shared out over parts of a replica, and rows of calls placed where their slots are."""

from __future__ import annotations

import numpy as np
import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.rollout.cache.slot_layout import SlotLayout


def test_one_part_is_slots_as_they_are():
    layout = SlotLayout(6)
    assert [layout.part(slot) for slot in range(7)] == [0] * 7
    rows, places = layout.rows([4, 2, 5], (2, 6))
    assert (rows, places.tolist()) == (6, [0, 1, 2])
    assert layout.together([4, 2, 5], 2) == [0, 1]
    assert layout.oldest([3, 0, 5]) == 3


def test_slots_go_to_the_parts_in_turn():
    layout = SlotLayout(6, 3)
    assert [layout.part(slot) for slot in range(6)] == [0, 1, 2, 0, 1, 2]
    assert layout.part(6) == 0  # the spare one is the first part's


def test_every_row_lies_in_the_run_of_the_part_that_holds_its_slot():
    layout = SlotLayout(8, 4)
    slots = [6, 1, 2, 5]  # parts 2, 1, 2, 1
    rows, places = layout.rows(slots, (2, 8))
    assert (rows, places.tolist()) == (8, [4, 2, 5, 3])
    for slot, place in zip(slots, places, strict=True):
        assert place // (rows // layout.parts) == layout.part(slot)
    assert layout.rows([0, 1, 2, 3], (2, 8))[0] == 4  # two rows, rounded up to one for each part
    with pytest.raises(ValueError, match="12 rows exceed the largest call"):
        layout.rows([0, 4, 0], (8,))


def test_a_call_takes_the_first_sequences_for_which_their_part_has_room():
    layout = SlotLayout(8, 2)
    assert layout.together([0, 2, 4, 1], 4) == [0, 1, 3]


def test_the_next_slot_is_of_the_part_with_most_free_ones():
    layout = SlotLayout(6, 2)
    assert layout.oldest([4, 1, 3]) == 1
    taken, free = [], dict.fromkeys(range(6))
    while free:
        taken.append(layout.oldest(free))
        del free[taken[-1]]
    assert taken == list(range(6))


def test_slots_that_do_not_divide_are_refused_with_what_would():
    with pytest.raises(UserError, match=r"6 slots can't be shared out over the 4 parts.*a multiple of 4"):
        SlotLayout(6, 4)


def test_all_slots_at_once_fill_every_row():
    layout = SlotLayout(12, 4)
    rows, places = layout.rows(np.random.default_rng(0).permutation(12).tolist(), (3, 12))
    assert rows == 12
    assert sorted(places.tolist()) == list(range(12))
