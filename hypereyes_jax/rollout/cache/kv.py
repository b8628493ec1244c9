"""The pages of keys and values at rest, views of them, and attention over a view and the tokens that are coming in.

At rest they are one donated buffer of [kv heads, layers, pages, tokens of a page, head dim], as float32, bfloat16, or
int8 with a scale for each vector; heads come first as jax's kernel for TPUs wants them. Which pages a sequence has is a
row of a table that the host keeps (`pages`), so that memory is taken by tokens, and prompts that begin alike hold the
same pages. Where no kernel reads them there, a call gathers the pages that it needs into a view, only as long as its
longest sequence, and never changes it: new keys and values go to a small buffer beside it, which is written back once.
So attention costs what the sequences are long, and no step copies a cache. Heads of a view come before positions
because a CPU's batched matmul would otherwise transpose all of it at each step.
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

# Logical axes. On a mesh each device keeps some pages, and whole KV heads of them; the rows of a call lie where their
# pages do (`slot_layout`), so that all but copies between parts is done by each device for itself. The numbers of pages
# in a table are those of the part.
STORE_AXES = ("kv_heads", None, "batch", None, None)
KEPT_AXES = ("kv_heads", None, None, None, None)  # of pages that were read
COLUMN_AXES = (None, "batch", "kv_heads", None, None)  # of views, too
_ROW = ("batch",)
_TABLE = ("batch", None)

INT8_LIMIT = 127.0
_FEW_QUERIES = MAX_DRAFT_TOKENS + 1  # of a row: as many as a decode step may have
_MASKED = -1e30  # finite, so a row that may look nowhere gives a uniform average, not NaN


class PageStore(struct.PyTreeNode):
    """All pages. Every leaf is [kv heads, layers, pages, tokens of a page, ...]."""

    k: jax.Array  # rotated keys
    v: jax.Array
    k_scale: jax.Array | None  # float32 [..., 1]; None unless int8
    v_scale: jax.Array | None


class View(struct.PyTreeNode):
    """Some sequences' first positions, each array as one side of a matmul that a CPU need not turn (see `attend`)."""

    k: jax.Array  # [layers, rows, kv heads, head dim, positions]
    v: jax.Array  # [layers, rows, kv heads, positions, head dim]


class Columns(struct.PyTreeNode):
    """Positions that are just coming in, as the store will hold them: [layers, rows, kv heads, positions, head dim]."""

    k: jax.Array
    v: jax.Array


def init_store(config: Qwen3VLConfig, pages: int, page_tokens: int, kind: KVKind) -> PageStore:
    """Empty pages. Raises ValueError for an unknown kind."""
    if kind not in ("float32", "bfloat16", "int8"):
        raise ValueError(f"kv={kind!r} is not one of float32, bfloat16, int8")
    text = config.text
    shape = (text.num_key_value_heads, text.num_hidden_layers, pages, page_tokens, text.head_dim)
    # four calls: a donated store may not hold the same buffer twice
    values = (jnp.zeros(shape, kind), jnp.zeros(shape, kind))
    if kind != "int8":
        return PageStore(*values, None, None)
    return PageStore(*values, jnp.zeros((*shape[:-1], 1), jnp.float32), jnp.zeros((*shape[:-1], 1), jnp.float32))


def in_place(store: PageStore) -> PageStore:
    """Keeps pages, on a mesh, where they were allocated, whatever the compiler would choose."""
    return jax.tree.map(lambda leaf: constrain(leaf, *STORE_AXES), store)


def bytes_per_token(config: Qwen3VLConfig, kind: KVKind) -> int:
    """Bytes of one position of one sequence at rest."""
    text = config.text
    vectors = 2 * text.num_hidden_layers * text.num_key_value_heads
    scale = 4 if kind == "int8" else 0
    return vectors * (text.head_dim * jnp.dtype(kind).itemsize + scale)


def take_rows(store: PageStore, pages_RP: jax.Array, dtype: jnp.dtype) -> View:
    """All positions of some pages, row by row. int8 is widened to `dtype`; other kinds stay as they are."""
    return _take_rows(store, pages_RP, dtype, None)


def take_layers(store: PageStore, pages_RP: jax.Array, dtype: jnp.dtype) -> list[View]:
    """What `take_rows` gives, as a view without a layer axis for each layer. Taken from one of all layers, it would
    be copied."""
    views = [_take_rows(store, pages_RP, dtype, layer) for layer in range(store.k.shape[1])]
    return [View(view.k[0], view.v[0]) for view in views]


def _take_rows(store: PageStore, pages_RP: jax.Array, dtype: jnp.dtype, layer: int | None) -> View:
    take = partial(_take_own_rows, dtype=dtype, layer=layer)
    return local(take, (STORE_AXES, _TABLE), COLUMN_AXES)(store, jnp.asarray(pages_RP))


def _take_own_rows(store: PageStore, pages_RP: jax.Array, *, dtype: jnp.dtype, layer: int | None) -> View:
    def take(leaf: jax.Array, turned: bool) -> jax.Array:
        return jax.lax.platform_dependent(
            leaf, pages_RP, cpu=partial(_at_once, layer=layer, turned=turned),
            default=partial(_row_by_row, layer=layer, turned=turned),
        )  # fmt: skip

    k, v = take(store.k, True), take(store.v, False)
    if store.k_scale is None or store.v_scale is None:
        return View(k, v)
    return View(_widen(k, take(store.k_scale, True), dtype), _widen(v, take(store.v_scale, False), dtype))


def _at_once(leaf: jax.Array, pages_RP: jax.Array, *, layer: int | None, turned: bool) -> jax.Array:
    """[layers, R, kv heads, P * tokens of a page, ...] of some pages, or with the last two axes changed over."""
    gathered = leaf[:, :, pages_RP] if layer is None else leaf[:, layer, pages_RP][:, None]
    heads, layers, rows, pages, page, size = gathered.shape
    if turned:
        return gathered.transpose(1, 2, 0, 5, 3, 4).reshape(layers, rows, heads, size, pages * page)
    return gathered.transpose(1, 2, 0, 3, 4, 5).reshape(layers, rows, heads, pages * page, size)


def _row_by_row(leaf: jax.Array, pages_RP: jax.Array, *, layer: int | None, turned: bool) -> jax.Array:
    """What `_at_once` gives, with room for one row more instead of for all of them twice."""
    one = partial(_at_once, leaf, layer=layer, turned=turned)
    shape = jax.eval_shape(one, pages_RP).shape

    def body(i: jax.Array, view: jax.Array) -> jax.Array:
        row = one(jax.lax.dynamic_slice_in_dim(pages_RP, i, 1))
        return jax.lax.dynamic_update_slice_in_dim(view, row, i, axis=1)

    return jax.lax.fori_loop(0, shape[1], body, jnp.zeros(shape, leaf.dtype))


def as_stored(x: jax.Array, store: PageStore) -> jax.Array:
    """Keys or values as a later call will see them, so that it doesn't matter where one call ends."""
    if store.k_scale is None:
        return x.astype(store.k.dtype).astype(x.dtype)
    whole, scale = _quantise(x)
    return _widen(whole, scale, x.dtype)


def put_columns(
    store: PageStore, new: Columns, pages_RP: jax.Array, start_R: jax.Array, count_R: jax.Array
) -> PageStore:
    """Writes the first `count` new positions of each row to its pages, from `start` on; nothing else changes.

    Args:
      new: [layers, rows, kv heads, at least max(count), head dim].
    """
    rows = (jnp.asarray(x) for x in (pages_RP, start_R, count_R))
    return local(put_own_columns, (STORE_AXES, COLUMN_AXES, _TABLE, _ROW, _ROW), STORE_AXES)(store, new, *rows)


def put_own_columns(
    store: PageStore,
    new: Columns,
    pages_RP: jax.Array,
    start_R: jax.Array,
    count_R: jax.Array,
    first_layer: jax.Array | int = 0,
) -> PageStore:
    """`put_columns` on one device, into as many layers from `first_layer` on as there are new ones of."""
    width, page = new.k.shape[3], store.k.shape[3]
    window = min(width, page)  # of a page, which is read and written back
    touched = -(-(width - 1) // page) + 1  # pages that so many positions may lie in

    def body(number: jax.Array, store: PageStore) -> PageStore:
        i, nth = number // touched, number % touched
        start, page_number = start_R[i], start_R[i] // page + nth
        # where the window begins in its page: never past its end
        begin = jnp.where(nth == 0, jnp.minimum(start % page, page - window), 0)
        column = page_number * page + begin - start + jnp.arange(window)
        ours = ((column >= 0) & (column < count_R[i]))[:, None]
        # A page past the table's end is one in which nothing is ours.
        target = pages_RP[i, jnp.minimum(page_number, pages_RP.shape[1] - 1)]

        def put(leaf: jax.Array, fresh: jax.Array) -> jax.Array:
            heads, size = leaf.shape[0], leaf.shape[4]
            place = (0, first_layer, target, begin, 0)
            old = jax.lax.dynamic_slice(leaf, place, (heads, new.k.shape[0], 1, window, size))
            around = jnp.pad(fresh, ((0, 0), (0, 0), (0, 0), (window, window), (0, 0)))
            moved = jax.lax.dynamic_slice_in_dim(around, column[0] + window, window, axis=3).astype(leaf.dtype)
            moved = moved.transpose(2, 0, 1, 3, 4)
            return jax.lax.dynamic_update_slice(leaf, jnp.where(ours, moved, old), place)

        k = jax.lax.dynamic_slice_in_dim(new.k, i, 1, axis=1)
        v = jax.lax.dynamic_slice_in_dim(new.v, i, 1, axis=1)
        if store.k_scale is None or store.v_scale is None:
            return PageStore(put(store.k, k), put(store.v, v), None, None)
        (k, k_scale), (v, v_scale) = _quantise(k), _quantise(v)
        return PageStore(put(store.k, k), put(store.v, v), put(store.k_scale, k_scale), put(store.v_scale, v_scale))

    return jax.lax.fori_loop(0, pages_RP.shape[0] * touched, body, store)


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
    layer = COLUMN_AXES[1:]
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


def copy_pages(
    store: PageStore, source_part: np.ndarray, sources_N: np.ndarray, target_part: np.ndarray, targets_N: np.ndarray
) -> PageStore:
    """Copies pages of one part to pages of one part. Where targets occur twice, so must their sources."""

    def run(store: PageStore, *places: jax.Array) -> PageStore:
        source_part, sources_N, target_part, targets_N = places
        return _write(store, _read(store, source_part, sources_N), target_part, targets_N)

    places = map(jnp.asarray, (source_part, sources_N, target_part, targets_N))
    return local(run, (STORE_AXES, (), (None,), (), (None,)), STORE_AXES)(store, *places)


def read_pages(store: PageStore, part: np.ndarray, pages_P: np.ndarray) -> PageStore:
    """Some pages of a part as they are stored: [kv heads, layers, P, tokens of a page, ...]."""
    places = map(jnp.asarray, (part, pages_P))
    return local(_read, (STORE_AXES, (), (None,)), KEPT_AXES)(store, *places)


def write_pages(store: PageStore, kept: PageStore, part: np.ndarray, pages_P: np.ndarray) -> PageStore:
    """Puts what `read_pages` gave into pages of a part."""
    places = map(jnp.asarray, (part, pages_P))
    return local(_write, (STORE_AXES, KEPT_AXES, (), (None,)), STORE_AXES)(store, kept, *places)


def _read(store: PageStore, part: jax.Array, pages_P: jax.Array) -> PageStore:
    """What the pages hold, on each device, be they its own or another's."""
    axes = cutting("batch", jax.sharding.get_abstract_mesh())

    def read(leaf: jax.Array) -> jax.Array:
        pages = leaf[:, :, pages_P]
        if not axes:
            return pages
        # What is added to -0 keeps all its bits, those of -0 too.
        nothing = jnp.asarray(0 if jnp.issubdtype(leaf.dtype, jnp.integer) else -0.0, leaf.dtype)
        return jax.lax.psum(jnp.where(part == jax.lax.axis_index(axes), pages, nothing), axes)

    return jax.tree.map(read, store)


def _write(store: PageStore, kept: PageStore, part: jax.Array, pages_P: jax.Array) -> PageStore:
    """Writes on the devices that hold the part; the others stay as they are."""
    axes = cutting("batch", jax.sharding.get_abstract_mesh())

    def write(leaf: jax.Array, new: jax.Array) -> jax.Array:
        # no page at all is written elsewhere
        place_P = jnp.where(part == jax.lax.axis_index(axes), pages_P, leaf.shape[2]) if axes else pages_P
        return leaf.at[:, :, place_P].set(new, mode="drop")

    return jax.tree.map(write, store, kept)


def _quantise(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = x.astype(jnp.float32)
    largest = jnp.abs(wide).max(-1, keepdims=True)
    scale = jnp.where(largest > 0, largest / INT8_LIMIT, 1.0)
    return jnp.round(wide / scale).astype(jnp.int8), scale


def _widen(whole: jax.Array, scale: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return (whole.astype(jnp.float32) * scale).astype(dtype)
