"""The slots' keys and values at rest, views of them, and attention over a view and the tokens that are just coming in.

At rest they are one donated buffer of [layers, slots, kv heads, length, head dim], as float32, bfloat16, or int8 with
a scale for each vector. A call gathers the rows it needs, only as long as its longest sequence, and never changes that
view: new keys and values go to a small buffer beside it, which is written back once. So attention costs what the
sequences are long, not what the slots could hold, and no step copies a cache. Heads come before positions because a
CPU's batched matmul would otherwise transpose the whole view at each step.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import MAX_DRAFT_TOKENS, KVKind
from hypereyes_jax.models.partition import constrain, cutting, local

# Logical axes. On a mesh each device keeps some slots, and whole KV heads of them; the rows of a call lie where their
# slots do (`slot_layout`), so that all but copies between slots is done by each device for itself.
STORE_AXES = (None, "batch", "kv_heads", None, None)
KEPT_AXES = (None, None, "kv_heads", None, None)  # of one slot that was read
_ROW = ("batch",)

_INT8_LIMIT = 127.0
_FEW_QUERIES = MAX_DRAFT_TOKENS + 1  # of a row: as many as a decode step may have
_MASKED = -1e30  # finite, so a row that may look nowhere gives a uniform average, not NaN


class SlotStore(struct.PyTreeNode):
    """All slots. Every leaf is [layers, slots, kv heads, length, ...]."""

    k: jax.Array  # rotated keys
    v: jax.Array
    k_scale: jax.Array | None  # float32 [..., 1]; None unless int8
    v_scale: jax.Array | None


class View(struct.PyTreeNode):
    """Some slots' first positions, each array as one side of a matmul that a CPU need not turn over (see `attend`)."""

    k: jax.Array  # [layers, rows, kv heads, head dim, positions]
    v: jax.Array  # [layers, rows, kv heads, positions, head dim]


class Columns(struct.PyTreeNode):
    """Positions that are just coming in, as the store will hold them: [layers, rows, kv heads, positions, head dim]."""

    k: jax.Array
    v: jax.Array


def init_store(config: Qwen3VLConfig, slots: int, context: int, kind: KVKind) -> SlotStore:
    """Empty slots. Raises ValueError for an unknown kind."""
    if kind not in ("float32", "bfloat16", "int8"):
        raise ValueError(f"kv={kind!r} is not one of float32, bfloat16, int8")
    text = config.text
    shape = (text.num_hidden_layers, slots, text.num_key_value_heads, context, text.head_dim)
    # four calls: a donated store may not hold the same buffer twice
    values = (jnp.zeros(shape, kind), jnp.zeros(shape, kind))
    if kind != "int8":
        return SlotStore(*values, None, None)
    return SlotStore(*values, jnp.zeros((*shape[:-1], 1), jnp.float32), jnp.zeros((*shape[:-1], 1), jnp.float32))


def in_place(store: SlotStore) -> SlotStore:
    """Keeps slots, on a mesh, where they were allocated, whatever the compiler would choose."""
    return jax.tree.map(lambda leaf: constrain(leaf, *STORE_AXES), store)


def bytes_per_token(config: Qwen3VLConfig, kind: KVKind) -> int:
    """Bytes of one position of one slot at rest."""
    text = config.text
    vectors = 2 * text.num_hidden_layers * text.num_key_value_heads
    scale = 4 if kind == "int8" else 0
    return vectors * (text.head_dim * jnp.dtype(kind).itemsize + scale)


def take_rows(store: SlotStore, slots_R: jax.Array, length: int, dtype: jnp.dtype) -> View:
    """The first `length` positions of some slots. int8 is widened to `dtype`; other kinds stay as they are."""
    return _take_rows(store, slots_R, length, dtype, 0, store.k.shape[0])


def take_layers(store: SlotStore, slots_R: jax.Array, length: int, dtype: jnp.dtype) -> list[View]:
    """What `take_rows` gives, as a view without a layer axis for each layer. Taken from one of all layers, it would
    be copied."""
    views = [_take_rows(store, slots_R, length, dtype, layer, 1) for layer in range(store.k.shape[0])]
    return [View(view.k[0], view.v[0]) for view in views]


def _take_rows(store: SlotStore, slots_R: jax.Array, length: int, dtype: jnp.dtype, first: int, layers: int) -> View:
    take = partial(_take_own_rows, length=length, dtype=dtype, first=first, layers=layers)
    return local(take, (STORE_AXES, _ROW), STORE_AXES)(store, jnp.asarray(slots_R))


def _take_own_rows(
    store: SlotStore, slots_R: jax.Array, *, length: int, dtype: jnp.dtype, first: int, layers: int
) -> View:
    slots_R = slots_R % store.k.shape[1]

    def take(leaf: jax.Array, turned: bool) -> jax.Array:
        heads, size = leaf.shape[2], leaf.shape[4]
        shape = (size, length) if turned else (length, size)

        # Row by row: XLA's gather on a CPU computes an index for each element, this copies memory.
        def body(i: jax.Array, view: jax.Array) -> jax.Array:
            row = jax.lax.dynamic_slice(leaf, (first, slots_R[i], 0, 0, 0), (layers, 1, heads, length, size))
            return jax.lax.dynamic_update_slice(view, row.swapaxes(3, 4) if turned else row, (0, i, 0, 0, 0))

        rows = slots_R.shape[0]
        return jax.lax.fori_loop(0, rows, body, jnp.zeros((layers, rows, heads, *shape), leaf.dtype))

    k, v = take(store.k, True), take(store.v, False)
    if store.k_scale is None or store.v_scale is None:
        return View(k, v)
    return View(_widen(k, take(store.k_scale, True), dtype), _widen(v, take(store.v_scale, False), dtype))


def as_stored(x: jax.Array, store: SlotStore) -> jax.Array:
    """Keys or values as a later call will see them, so that it doesn't matter where one call ends."""
    if store.k_scale is None:
        return x.astype(store.k.dtype).astype(x.dtype)
    whole, scale = _quantise(x)
    return _widen(whole, scale, x.dtype)


def put_columns(
    store: SlotStore, new: Columns, slots_R: jax.Array, start_R: jax.Array, count_R: jax.Array
) -> SlotStore:
    """Writes the first `count` new positions of each row to its slot, from `start` on; nothing else changes.

    Args:
      new: [layers, rows, kv heads, at least max(count), head dim].
    """
    rows = (jnp.asarray(x) for x in (slots_R, start_R, count_R))
    return local(_put_own_columns, (STORE_AXES, STORE_AXES, _ROW, _ROW, _ROW), STORE_AXES)(store, new, *rows)


def _put_own_columns(
    store: SlotStore, new: Columns, slots_R: jax.Array, start_R: jax.Array, count_R: jax.Array
) -> SlotStore:
    slots_R = slots_R % store.k.shape[1]
    width = min(new.k.shape[3], store.k.shape[3])
    last = store.k.shape[3] - width  # the window is moved back to stay inside the slot

    def body(i: jax.Array, store: SlotStore) -> SlotStore:
        slot, begin = slots_R[i], jnp.minimum(start_R[i], last)
        shift = start_R[i] - begin
        place = jnp.arange(width)
        ours = ((place >= shift) & (place < shift + count_R[i]))[:, None]

        def put(leaf: jax.Array, fresh: jax.Array) -> jax.Array:
            layers, _, heads, _, size = leaf.shape
            old = jax.lax.dynamic_slice(leaf, (0, slot, 0, begin, 0), (layers, 1, heads, width, size))
            moved = jnp.roll(fresh[:, :, :, :width], shift, axis=3).astype(leaf.dtype)
            return jax.lax.dynamic_update_slice(leaf, jnp.where(ours, moved, old), (0, slot, 0, begin, 0))

        k = jax.lax.dynamic_slice_in_dim(new.k, i, 1, axis=1)
        v = jax.lax.dynamic_slice_in_dim(new.v, i, 1, axis=1)
        if store.k_scale is None or store.v_scale is None:
            return SlotStore(put(store.k, k), put(store.v, v), None, None)
        (k, k_scale), (v, v_scale) = _quantise(k), _quantise(v)
        return SlotStore(put(store.k, k), put(store.v, v), put(store.k_scale, k_scale), put(store.v_scale, v_scale))

    return jax.lax.fori_loop(0, slots_R.shape[0], body, store)


def attend(
    q_RTHD: jax.Array,
    old: View,
    offset_R: jax.Array,
    new: Columns,
    first_R: jax.Array,
) -> jax.Array:
    """Softmax attention [R, T, H * D] over a row's first `offset` positions and the new ones, of one layer.

    A row's query t sees the first `first + t + 1` of its new positions: its own is the last of them.

    Many queries a row are attended to one row after the other: the scores of a row are as many as T * (L + S) for each
    head, which is what limits how many slots an accelerator has room for, and a CPU can keep those of one row in cache,
    which saves a quarter of the time of reading 8 x 96 tokens behind 512.

    Args:
      old: keys [R, kv heads, D, L] and values [R, kv heads, L, D].
      new: [R, kv heads, S, D].
      first_R: int32, the place of a row's first query among its new positions.
    """
    layer = STORE_AXES[1:]
    axes = (("batch", None, "heads", None), layer, _ROW, layer, _ROW)
    rows = (jnp.asarray(offset_R), new, jnp.asarray(first_R))
    return local(_attend_own, axes, ("batch", None, "heads"))(q_RTHD, old, *rows)


def _attend_own(q_RTHD: jax.Array, old: View, offset_R: jax.Array, new: Columns, first_R: jax.Array) -> jax.Array:
    if q_RTHD.shape[1] <= _FEW_QUERIES or q_RTHD.shape[0] == 1:
        return _attend_rows(q_RTHD, old, offset_R, new, first_R)

    def one(row: tuple[jax.Array, View, jax.Array, Columns, jax.Array]) -> jax.Array:
        return _attend_rows(*jax.tree.map(lambda x: x[None], row))[0]

    return jax.lax.map(one, (q_RTHD, old, offset_R, new, first_R))


def _attend_rows(q_RTHD: jax.Array, old: View, offset_R: jax.Array, new: Columns, first_R: jax.Array) -> jax.Array:
    rows, steps, heads, size = q_RTHD.shape
    kv_heads, length = old.v.shape[1:3]
    shared = heads // kv_heads
    # Queries as the rows of plain batched matmuls, heads before positions like the cache: written as one einsum with
    # the steps in between, XLA turns the whole cache over on a CPU. It also does so for keys as they are stored, their
    # values last: few queries over 640 such keys take eight times as long as over the turned ones of a view.
    q = q_RTHD.reshape(rows, steps, kv_heads, shared, size).transpose(0, 2, 3, 1, 4) * size**-0.5
    q_RKQD = q.reshape(rows, kv_heads, shared * steps, size)

    def scores(k_RKDS: jax.Array) -> jax.Array:
        scores_RKQS = jnp.matmul(q_RKQD, k_RKDS.astype(q.dtype), preferred_element_type=jnp.float32)
        return scores_RKQS.reshape(rows, kv_heads, shared, steps, -1)

    def masked(score: jax.Array, visible: jax.Array) -> jax.Array:
        # XLA's CPU backend joins an addition with the softmax, which pays for many queries and not for one.
        return score + jnp.where(visible, 0.0, _MASKED) if steps > 1 else jnp.where(visible, score, _MASKED)

    in_cache = (jnp.arange(length) < offset_R[:, None])[:, None, None, None]
    seen_RTS = jnp.arange(new.k.shape[2]) <= first_R[:, None, None] + jnp.arange(steps)[:, None]
    old_score, new_score = (
        masked(scores(old.k), in_cache),
        masked(scores(new.k.swapaxes(2, 3)), seen_RTS[:, None, None]),
    )
    # The sum divides at the end: one array of both scores would be put together and taken apart again.
    top = jnp.maximum(old_score.max(-1, keepdims=True), new_score.max(-1, keepdims=True))
    old_weight, new_weight = jnp.exp(old_score - top), jnp.exp(new_score - top)
    total = old_weight.sum(-1, keepdims=True) + new_weight.sum(-1, keepdims=True)

    def average(weight: jax.Array, v_RKSD: jax.Array) -> jax.Array:
        weight_RKQS = weight.astype(q.dtype).reshape(rows, kv_heads, shared * steps, -1)
        return jnp.matmul(weight_RKQS, v_RKSD.astype(q.dtype), preferred_element_type=jnp.float32)

    out_RKQD = average(old_weight, old.v) + average(new_weight, new.v)
    out_RKQD = (out_RKQD / total.reshape(rows, kv_heads, shared * steps, 1)).astype(q.dtype)
    out = out_RKQD.reshape(rows, kv_heads, shared, steps, size).transpose(0, 3, 1, 2, 4)
    return out.reshape(rows, steps, heads * size)


def copy_slot(store: SlotStore, source: np.ndarray, targets_R: np.ndarray, rows: np.ndarray, length: int) -> SlotStore:
    """Copies the first `length` positions of one slot to the first `rows` of the target slots."""

    def run(store: SlotStore, source: jax.Array, targets_R: jax.Array, rows: jax.Array) -> SlotStore:
        columns = _read(store, source, length)

        def body(i: jax.Array, store: SlotStore) -> SlotStore:
            return _write(store, columns, targets_R[i])

        return jax.lax.fori_loop(0, rows, body, store)

    return local(run, (STORE_AXES, (), (None,), ()), STORE_AXES)(store, *map(jnp.asarray, (source, targets_R, rows)))


def read_slot(store: SlotStore, slot: np.ndarray, length: int) -> SlotStore:
    """The first `length` positions of one slot as they are stored: [layers, 1, kv heads, length, ...]."""
    read = partial(_read, length=length)
    return local(read, (STORE_AXES, ()), KEPT_AXES)(store, jnp.asarray(slot))


def write_slot(store: SlotStore, columns: SlotStore, slot: np.ndarray) -> SlotStore:
    """Puts what `read_slot` gave into a slot."""
    return local(_write, (STORE_AXES, KEPT_AXES, ()), STORE_AXES)(store, columns, jnp.asarray(slot))


def _read(store: SlotStore, slot: jax.Array, length: int) -> SlotStore:
    """What the slot holds, on each device, be the slot its own or another's."""
    axes, own, is_own = _owner(store, slot)

    def read(leaf: jax.Array) -> jax.Array:
        layers, _, heads, _, size = leaf.shape
        columns = jax.lax.dynamic_slice(leaf, (0, own, 0, 0, 0), (layers, 1, heads, length, size))
        if not axes:
            return columns
        # What is added to -0 keeps all its bits, those of -0 too.
        nothing = jnp.asarray(0 if jnp.issubdtype(leaf.dtype, jnp.integer) else -0.0, leaf.dtype)
        return jax.lax.psum(jnp.where(is_own, columns, nothing), axes)

    return jax.tree.map(read, store)


def _write(store: SlotStore, columns: SlotStore, slot: jax.Array) -> SlotStore:
    """Writes on the devices that hold the slot; the others stay as they are."""
    axes, own, is_own = _owner(store, slot)

    def write(leaf: jax.Array, new: jax.Array) -> jax.Array:
        begin = (0, own, 0, 0, 0)
        if axes:
            new = jnp.where(is_own, new, jax.lax.dynamic_slice(leaf, begin, new.shape))
        return jax.lax.dynamic_update_slice(leaf, new, begin)

    return jax.tree.map(write, store, columns)


def _owner(store: SlotStore, slot: jax.Array) -> tuple[tuple[str, ...], jax.Array, jax.Array | bool]:
    """(mesh axes that share out slots, the slot's number among its device's, whether this device holds it)."""
    axes = cutting("batch", jax.sharding.get_abstract_mesh())
    if not axes:
        return (), slot, True
    here = store.k.shape[1]
    return axes, slot % here, slot // here == jax.lax.axis_index(axes)


def _quantise(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = x.astype(jnp.float32)
    largest = jnp.abs(wide).max(-1, keepdims=True)
    scale = jnp.where(largest > 0, largest / _INT8_LIMIT, 1.0)
    return jnp.round(wide / scale).astype(jnp.int8), scale


def _widen(whole: jax.Array, scale: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return (whole.astype(jnp.float32) * scale).astype(dtype)
