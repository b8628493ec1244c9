"""How a decode program reaches its pages: through a view with new columns beside it, or in place.

Each way is what the token loop carries, what one step's layers attend to, and what remains to be written at the end.
A step feeds each row one token, or with drafts a few, of which those that turn out wrong are written over by the next
step. Axis letters: R rows of a call, K tokens that a call may add to each of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.model import TextConfig
from hypereyes_jax.models.partition import constrain
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.models.qwen3_vl.kernels import SlotsImpl
from hypereyes_jax.models.qwen3_vl.text import Attend
from hypereyes_jax.rollout.cache import kv, page_attention, tpu_attention


class DecodeSize(NamedTuple):
    """What a decode program is compiled for, beside the number of its rows."""

    view_length: int  # positions viewed, those that the call adds aside; of no account without a view
    max_steps: int
    draft_tokens: int = 0  # guesses that each step verifies in each row

    @property
    def new_tokens(self) -> int:
        """Tokens that a call may add to a row."""
        return self.max_steps * (self.draft_tokens + 1)


class CacheAccess(Protocol):
    """How a decode loop reads and writes the engine's pages."""

    start: Any  # what the loop over tokens carries

    def step(self, state: Any, place: jax.Array, fed_R: jax.Array) -> tuple[Attend, Any, Any]:
        """`attend`, `attend_xs` and `carried` of `decode_layers`, for the tokens of a step.

        Args:
          place: int32, how many tokens of this call come before: one number for all rows that still decode, or [R].
          fed_R: int32, how many of a row's tokens count.
        """

    def after(self, state: Any, of_layers: Any, place: jax.Array) -> Any:
        """The state behind a step whose layers gave `of_layers`."""

    def finished(self, state: Any, count_R: jax.Array) -> kv.PageStore:
        """The pages with `count_R` new positions a row."""


def views_cache(kernels: Kernels, text: TextConfig) -> bool:
    """Whether programs attend to a view, which is a second copy of what it shows, instead of to the pages."""
    if kernels.slots == "paged":  # what the kernel does not take
        return text.head_dim % tpu_attention.HEAD_DIM_UNIT > 0
    return kernels.slots == "view"


def cache_access(
    store: kv.PageStore,
    pages_RP: jax.Array,
    offset_R: jax.Array,
    *,
    text: TextConfig,
    kernels: Kernels,
    size: DecodeSize,
    dtype: jnp.dtype,
) -> CacheAccess:
    """The way that `kernels` names; a view where its kernel does not take what there is (`views_cache`)."""
    if views_cache(kernels, text):
        shown_RP = pages_RP[:, : size.view_length // store.k.shape[3]]
        take = kv.take_layers if kernels.unrolled else kv.take_rows
        view = take(store, shown_RP, dtype)
        return _View(store, view, pages_RP, offset_R, text, size.new_tokens, dtype)
    return _InPlace(store, pages_RP, offset_R, kernels.slots)


class _InPlace:
    def __init__(self, store: kv.PageStore, pages_RP: jax.Array, offset_R: jax.Array, slots: SlotsImpl):
        self.start = store
        self._pages_RP, self._offset_R, self._slots = pages_RP, offset_R, slots

    def step(self, state: kv.PageStore, place: jax.Array, fed_R: jax.Array) -> tuple[Attend, Any, Any]:
        attend = attend_in_place(self._slots, self._pages_RP, self._offset_R + place, fed_R)
        return attend, layer_numbers(self._slots, state), state

    def after(self, state: kv.PageStore, of_layers: kv.PageStore, place: jax.Array) -> kv.PageStore:
        return of_layers

    def finished(self, state: kv.PageStore, count_R: jax.Array) -> kv.PageStore:
        return state


def attend_in_place(slots: SlotsImpl, pages_RP: jax.Array, offset_R: jax.Array, count_R: jax.Array) -> Attend:
    """`attend` of layers whose `own` is the layer's number and that carry all pages."""
    kernel: Any = (page_attention if slots == "in_place" else tpu_attention).put_and_attend

    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, layer: Any, store: kv.PageStore
    ) -> tuple[jax.Array, kv.PageStore]:
        return kernel(q, k, v, store, layer, pages_RP, offset_R, count_R)

    return attend


def layer_numbers(slots: SlotsImpl, store: kv.PageStore) -> Any:
    """The `own` of each layer: Triton kernels are compiled for a layer each, those for TPUs serve all of a scan."""
    layers = store.k.shape[1]
    return list(range(layers)) if slots == "in_place" else jnp.arange(layers)


class _View:
    def __init__(
        self,
        store: kv.PageStore,
        view: kv.View | list[kv.View],
        pages_RP: jax.Array,
        offset_R: jax.Array,
        text: TextConfig,
        new_tokens: int,
        dtype: jnp.dtype,
    ):
        self._store, self._pages_RP, self._offset_R = store, pages_RP, offset_R
        self._view: Any = view
        self._unrolled = isinstance(view, list)
        beside = (text.num_hidden_layers, pages_RP.shape[0], text.num_key_value_heads, new_tokens, text.head_dim)
        new = kv.Columns(*(constrain(jnp.zeros(beside, dtype), *kv.COLUMN_AXES) for _ in range(2)))
        # Keys and values of this call, or a pair for each layer.
        self.start = [kv.Columns(k, v) for k, v in zip(new.k, new.v, strict=True)] if self._unrolled else new

    def step(self, state: Any, place: jax.Array, fed_R: jax.Array) -> tuple[Attend, Any, Any]:
        place_R = jnp.broadcast_to(place, self._offset_R.shape)

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, own: Any) -> tuple[jax.Array, kv.Columns]:
            old, new = own
            fresh = heads_first(k, v, self._store)
            new = _updated(new, fresh, place)
            # Unrolled, the updated columns go on as they are: updated once more beside the step, they would be copied.
            return kv.attend(q, old, self._offset_R, new, place_R), new if self._unrolled else fresh

        return attend, list(zip(self._view, state, strict=True)) if self._unrolled else (self._view, state), None

    def after(self, state: Any, of_layers: Any, place: jax.Array) -> Any:
        return of_layers if self._unrolled else _updated(state, of_layers, place)

    def finished(self, state: Any, count_R: jax.Array) -> kv.PageStore:
        return kv.put_columns(self._store, stacked(state), self._pages_RP, self._offset_R, count_R)


def _updated(columns: kv.Columns, fresh: kv.Columns, place: jax.Array) -> kv.Columns:
    def put(old: jax.Array, new: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new, place, axis=-2)

    if place.ndim:  # a place of its own for each row
        put = jax.vmap(put, in_axes=(columns.k.ndim - 4, columns.k.ndim - 4, 0), out_axes=columns.k.ndim - 4)
    return jax.tree.map(lambda old, new: put(old, new, place), columns, fresh)


def stacked(new: Any) -> kv.Columns:
    """One array of all layers, where there is a list of them."""
    return jax.tree.map(lambda *layers: jnp.stack(layers), *new) if isinstance(new, list) else new


def heads_first(k_RTKD: jax.Array, v_RTKD: jax.Array, store: kv.PageStore) -> kv.Columns:
    """New keys and values as a store holds them: [R, kv heads, T, head dim]."""
    return kv.Columns(*(kv.as_stored(x.swapaxes(1, 2), store) for x in (k_RTKD, v_RTKD)))
