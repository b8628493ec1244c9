"""The device programs that copy what pages hold: to other pages, to the host and back."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from hypereyes_jax.models.partition import constrain
from hypereyes_jax.rollout.cache import kv


@partial(jax.jit, donate_argnames=("store",))
def copy_pages(
    store: kv.PageStore, source_part: np.ndarray, sources_N: np.ndarray, target_part: np.ndarray, targets_N: np.ndarray
) -> kv.PageStore:
    """`kv.copy_pages` in place."""
    return kv.in_place(kv.copy_pages(store, source_part, sources_N, target_part, targets_N))


@jax.jit
def read_pages(store: kv.PageStore, part: np.ndarray, pages_P: np.ndarray) -> kv.PageStore:
    """`kv.read_pages`; the store stays valid."""
    return jax.tree.map(lambda leaf: constrain(leaf, *kv.KEPT_AXES), kv.read_pages(store, part, pages_P))


@partial(jax.jit, donate_argnames=("store",))
def write_pages(store: kv.PageStore, kept: kv.PageStore, part: np.ndarray, pages_P: np.ndarray) -> kv.PageStore:
    """`kv.write_pages` in place."""
    return kv.in_place(kv.write_pages(store, kept, part, pages_P))
