"""The device programs that copy what slots hold: to other slots, to the host and back."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from hypereyes_jax.models.partition import constrain
from hypereyes_jax.rollout import kv


@partial(jax.jit, static_argnames=("length",), donate_argnames=("store",))
def copy_slot(
    store: kv.SlotStore, source: np.ndarray, targets_R: np.ndarray, rows: np.ndarray, *, length: int
) -> kv.SlotStore:
    """`kv.copy_slot` in place."""
    return kv.in_place(kv.copy_slot(store, source, targets_R, rows, length))


@partial(jax.jit, static_argnames=("length",))
def read_slot(store: kv.SlotStore, slot: np.ndarray, *, length: int) -> kv.SlotStore:
    """`kv.read_slot`; the store stays valid."""
    return jax.tree.map(lambda leaf: constrain(leaf, *kv.KEPT_AXES), kv.read_slot(store, slot, length))


@partial(jax.jit, donate_argnames=("store",))
def write_slot(store: kv.SlotStore, columns: kv.SlotStore, slot: np.ndarray) -> kv.SlotStore:
    """`kv.write_slot` in place."""
    return kv.in_place(kv.write_slot(store, columns, slot))
