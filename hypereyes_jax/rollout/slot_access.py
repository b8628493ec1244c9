"""How a decode program reaches its slots: through a view with new columns beside it, or in place.

Each way is what the token loop carries, what one step's layers attend to, and what remains to be written at the end.
Axis letters: R rows of a call, K steps.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.model import TextConfig
from hypereyes_jax.models.partition import constrain
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.models.qwen3_vl.text import Attend
from hypereyes_jax.rollout import kv
from hypereyes_jax.rollout.slot_attention import put_and_attend


class SlotAccess(Protocol):
    """How a decode loop reads and writes the engine's slots."""

    start: Any  # what the loop over tokens carries

    def step(self, state: Any, step: jax.Array, alive_R: jax.Array) -> tuple[Attend, Any]:
        """`attend` and `attend_xs` of `decode_layers`, for one token a row."""

    def after(self, state: Any, layer_slots: Any, step: jax.Array) -> Any:
        """The state behind a step whose layers gave `layer_slots`."""

    def finished(self, state: Any, count_R: jax.Array) -> kv.SlotStore:
        """The slots with `count_R` new positions a row."""


def slot_access(
    store: kv.SlotStore,
    slots_R: jax.Array,
    offset_R: jax.Array,
    *,
    text: TextConfig,
    kernels: Kernels,
    view_length: int,
    max_steps: int,
    dtype: jnp.dtype,
) -> SlotAccess:
    """The way that `kernels` names. int8 slots are always viewed: the kernels read numbers as they are."""
    if kernels.slots == "in_place" and store.k_scale is None:
        return _InPlace(store, slots_R, offset_R)
    return _View(store, slots_R, offset_R, text, kernels.unrolled_decode, view_length, max_steps, dtype)


class _InPlace:
    def __init__(self, store: kv.SlotStore, slots_R: jax.Array, offset_R: jax.Array):
        self.start = store
        self._slots_R, self._offset_R = slots_R, offset_R

    def step(self, state: kv.SlotStore, step: jax.Array, alive_R: jax.Array) -> tuple[Attend, Any]:
        attend = attend_in_place(state, self._slots_R, self._offset_R + step, alive_R.astype(jnp.int32))
        return attend, list(range(state.k.shape[0]))

    def after(self, state: kv.SlotStore, layer_slots: list[kv.SlotStore], step: jax.Array) -> kv.SlotStore:
        return layer_slots[-1]

    def finished(self, state: kv.SlotStore, count_R: jax.Array) -> kv.SlotStore:
        return state


def attend_in_place(store: kv.SlotStore, slots_R: jax.Array, offset_R: jax.Array, count_R: jax.Array) -> Attend:
    """`attend` of unrolled layers, whose `own` is the layer's number: each gives the slots as it leaves them."""
    latest = store

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, layer: int) -> tuple[jax.Array, kv.SlotStore]:
        nonlocal latest
        out, slots_k, slots_v = put_and_attend(q, k, v, latest.k, latest.v, layer, slots_R, offset_R, count_R)
        latest = kv.SlotStore(slots_k, slots_v, None, None)
        return out, latest

    return attend


class _View:
    def __init__(
        self,
        store: kv.SlotStore,
        slots_R: jax.Array,
        offset_R: jax.Array,
        text: TextConfig,
        unrolled: bool,
        view_length: int,
        max_steps: int,
        dtype: jnp.dtype,
    ):
        self._store, self._slots_R, self._offset_R = store, slots_R, offset_R
        self._unrolled, self._max_steps = unrolled, max_steps
        take = kv.take_layers if unrolled else kv.take_rows
        self._view: Any = take(store, slots_R, view_length, dtype)
        beside = (text.num_hidden_layers, slots_R.shape[0], text.num_key_value_heads, max_steps, text.head_dim)
        new = kv.Columns(*(constrain(jnp.zeros(beside, dtype), *kv.STORE_AXES) for _ in range(2)))
        # Keys and values of this call, or a pair for each layer; all rows still alive are at the same step.
        self.start = [kv.Columns(k, v) for k, v in zip(new.k, new.v, strict=True)] if unrolled else new

    def step(self, state: Any, step: jax.Array, alive_R: jax.Array) -> tuple[Attend, Any]:
        seen_1K = (jnp.arange(self._max_steps) <= step)[None]

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, own: Any) -> tuple[jax.Array, kv.Columns]:
            old, new = own
            fresh = heads_first(k, v, self._store)
            new = _updated(new, fresh, step)
            # Unrolled, the updated columns go on as they are: updated once more beside the step, they would be copied.
            return kv.attend(q, old, self._offset_R, new, seen_1K), new if self._unrolled else fresh

        return attend, list(zip(self._view, state, strict=True)) if self._unrolled else (self._view, state)

    def after(self, state: Any, layer_slots: Any, step: jax.Array) -> Any:
        return layer_slots if self._unrolled else _updated(state, layer_slots, step)

    def finished(self, state: Any, count_R: jax.Array) -> kv.SlotStore:
        return kv.put_columns(self._store, stacked(state), self._slots_R, self._offset_R, count_R)


def _updated(columns: kv.Columns, fresh: kv.Columns, step: jax.Array) -> kv.Columns:
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, step, axis=-2), columns, fresh)


def stacked(new: Any) -> kv.Columns:
    """One array of all layers, where there is a list of them."""
    return jax.tree.map(lambda *layers: jnp.stack(layers), *new) if isinstance(new, list) else new


def heads_first(k_RTKD: jax.Array, v_RTKD: jax.Array, store: kv.SlotStore) -> kv.Columns:
    """New keys and values as a store holds them: [R, kv heads, T, head dim]."""
    return kv.Columns(*(kv.as_stored(x.swapaxes(1, 2), store) for x in (k_RTKD, v_RTKD)))
