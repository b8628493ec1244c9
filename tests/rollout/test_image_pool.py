"""Which images keep their place on the device: host bookkeeping, no device."""

from __future__ import annotations

import numpy as np
import pytest

from hypereyes_jax.rollout.image_pool import RowTable


def test_the_image_that_was_not_used_for_longest_makes_room():
    table = RowTable(6)
    for key in (b"a", b"b", b"c"):
        assert len(table.allocate(key, 2, ())) == 2
    rows = table.get(b"a")  # used again: now b is the oldest
    assert len(table.allocate(b"d", 2, ())) == 2
    assert table.get(b"b") is None
    np.testing.assert_array_equal(table.get(b"a"), rows)
    held = np.concatenate([table.get(key) for key in (b"a", b"c", b"d")])
    assert sorted(held.tolist()) == list(range(6))  # no row is of two images


def test_only_as_many_go_as_are_needed_and_pinned_ones_stay():
    table = RowTable(5)
    for key in (b"a", b"b", b"c"):
        table.allocate(key, 1, ())
    table.allocate(b"d", 3, pinned={b"a"})  # two rows are free: b alone goes
    assert [key for key in (b"a", b"b", b"c", b"d") if table.get(key) is not None] == [b"a", b"c", b"d"]
    assert table.allocate(b"e", 5, pinned={b"a"}) is None
    assert len(table) == 3  # what cannot be made to fit drops nobody
    with pytest.raises(ValueError, match="held already"):
        table.allocate(b"d", 1, ())


def test_after_clear_nothing_is_held_and_every_row_is_free():
    table = RowTable(3)
    table.allocate(b"a", 3, ())
    table.clear()
    assert table.get(b"a") is None
    assert sorted(table.allocate(b"b", 3, ()).tolist()) == [0, 1, 2]
