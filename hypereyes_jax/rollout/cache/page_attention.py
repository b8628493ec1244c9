"""Attention over the pages where they lie, and the writing of new keys and values into them: Triton kernels for GPUs.

A view (`kv.take_rows`) is a second copy of what it shows, and XLA's matmuls over it read all of its positions for every
row. Here each row's program reads its own pages, up to its own last position, and nothing is copied. Long rows of few
queries are cut into splits that run side by side and are joined afterwards (Flash-Decoding). Axis letters: L layers,
N pages of the store, S tokens of a page, R rows of a call, P pages of a row, T new tokens of a row, H query heads,
K key heads, D values a head.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from hypereyes_jax.models.partition import dividing, local
from hypereyes_jax.models.trip_counts import expected_bytes, expected_positions, expected_trip_count
from hypereyes_jax.models.triton import LEAST, dot, launch, on_platform
from hypereyes_jax.rollout.cache.kv import INT8_LIMIT, STORE_AXES, PageStore

_MASKED = -1e30
_BLOCK_KEYS = 64
_BLOCK_QUERIES = 64
_PROGRAMS = 256  # that fill a GPU, about two for each of its processors
_LOG2_E = math.log2(math.e)


def put_and_attend(
    q_RTHD: jax.Array,
    k_RTKD: jax.Array,
    v_RTKD: jax.Array,
    store: PageStore,
    layer: int,
    pages_RP: jax.Array,
    offset_R: jax.Array,
    count_R: jax.Array,
) -> tuple[jax.Array, PageStore]:
    """([R, T, H * D], all pages): writes new keys and values of a layer, and attends to them and all before.

    Row r's first `count_R[r]` tokens go to positions `offset_R[r]` ... of its pages. Its query t sees positions up to
    its own. A row of count 0 writes nothing, and its result is zero.

    Args:
      store: updated in place where it is donated. Its pages have a power of two of tokens, 16 or more.
    """
    heads = ("heads", "kv_heads")
    q_axes, new_axes = (("batch", None, axis, None) for axis in heads)
    run = local(
        partial(_put_and_attend, layer),
        (q_axes, new_axes, new_axes, STORE_AXES, ("batch", None), ("batch",), ("batch",)),
        (("batch", None, dividing(q_RTHD.shape[2:3], ("heads",))[0]), STORE_AXES),
    )
    return run(q_RTHD, k_RTKD, v_RTKD, store, pages_RP, offset_R, count_R)


def _put_and_attend(layer: int, q: Any, k: Any, v: Any, store: PageStore, *rows: Any) -> Any:
    def run(*arrays: Any, interpret: bool) -> Any:
        q, k, v, store, *rows = arrays
        store = _put(layer, k, v, store, rows, interpret=interpret)
        return _attend(layer, q, store, rows, interpret=interpret), store

    return on_platform(run, q, k, v, store, *rows)


def _put(layer: int, k: Any, v: Any, store: PageStore, rows: list[Any], *, interpret: bool) -> PageStore:
    count, steps, kv_heads, size = k.shape
    page, leaves = store.k.shape[3], _leaves(store)
    # A program writes what lies in one page: the first of a row may begin in the middle.
    touched = (steps - 1 + page - 1) // page + 1

    def kernel(pages, offset, count, new_k, new_v, *old_and_out):
        out = old_and_out[len(leaves) :]
        row, head, nth = pl.program_id(0), pl.program_id(1), pl.program_id(2)
        number = offset[row] // page + nth
        step = number * page - offset[row] + jnp.arange(page)
        ours = ((step >= 0) & (step < count[row]))[:, None]
        # past the table's end nothing is ours
        target = pages[row, jnp.minimum(number, pages.shape[1] - 1)]
        place = (head, jnp.int32(layer), target, slice(None), slice(None))
        column = jnp.arange(size)[None]
        for which, new in enumerate((new_k, new_v)):
            values = triton.load(new.at[row, jnp.where(ours, step[:, None], 0), head, column], mask=ours, other=0.0)
            if len(leaves) == 4:
                values, scale = _quantise(values.astype(jnp.float32))
                triton.store(out[2 + which].at[place], scale, mask=ours)
            triton.store(out[which].at[place], values.astype(out[which].dtype), mask=ours)

    with expected_bytes(4 * k.size * store.k.dtype.itemsize):
        written = launch(
            kernel,
            (count, kv_heads, touched),
            [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves],
            *rows, k, v, *leaves,
            interpret=interpret, name="put_into_pages", aliases={5 + n: n for n in range(len(leaves))},
        )  # fmt: skip
    return PageStore(*written, *[None] * (4 - len(leaves)))


def _leaves(store: PageStore) -> list[jax.Array]:
    """Keys, values, and where they are int8 the scales of both."""
    return [leaf for leaf in (store.k, store.v, store.k_scale, store.v_scale) if leaf is not None]


def _quantise(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `kv` does to keys and values that are kept as int8, without the rounding that Triton lacks."""
    largest = jnp.max(jnp.abs(x), axis=-1)[:, None]
    scale = jnp.where(largest > 0, largest / INT8_LIMIT, 1.0)
    exact = x / scale
    down = jnp.floor(exact)
    rest, odd = exact - down, down != 2 * jnp.floor(down / 2)
    return down + jnp.where((rest > 0.5) | ((rest == 0.5) & odd), 1.0, 0.0), scale


class _Form(NamedTuple):
    """What is known of `_attend_kernel` when a program is traced."""

    layer: int
    group: int  # query heads of a key head
    queries: int  # of a row and a key head
    block: int  # queries of a program
    keys: int  # of a block, which lies in one page
    split_blocks: int  # blocks of keys of a split


def _attend(layer: int, q: Any, store: PageStore, of_rows: list[Any], *, interpret: bool) -> jax.Array:
    rows, steps, heads, size = q.shape
    kv_heads, page = store.k.shape[0], store.k.shape[3]
    length = of_rows[0].shape[1] * page
    group = heads // kv_heads
    # The queries of one key head are the rows of one matmul, token by token.
    q = q.reshape(rows, steps, kv_heads, group, size).transpose(0, 2, 1, 3, 4).reshape(rows, kv_heads, -1, size)
    count = steps * group
    block = min(_BLOCK_QUERIES, max(LEAST, pl.next_power_of_2(count)))
    blocks = pl.cdiv(count, block)
    keys = min(_BLOCK_KEYS, page)
    splits = max(1, min(_PROGRAMS // (rows * kv_heads * blocks), pl.cdiv(length, 4 * keys)))
    split_blocks = pl.cdiv(pl.cdiv(length, keys), splits)
    # Each row reads its pages up to its own last position, once for every block of queries.
    usual = expected_positions(length)
    reads = 2 * rows * blocks * kv_heads * usual * size * store.k.dtype.itemsize
    kernel = partial(_attend_kernel, _Form(layer, group, count, block, keys, split_blocks))
    with expected_bytes(reads), expected_trip_count(rows * kv_heads * blocks * max(1.0, usual / keys)):
        out, normaliser = launch(
            kernel,
            (rows, kv_heads * blocks, splits),
            [
                jax.ShapeDtypeStruct((splits, *q.shape), q.dtype if splits == 1 else jnp.float32),
                jax.ShapeDtypeStruct((splits, *q.shape[:-1]), jnp.float32),
            ],
            *of_rows, q, *_leaves(store),
            interpret=interpret, name="attend_to_pages",
        )  # fmt: skip
    if splits > 1:
        share = jax.nn.softmax(normaliser, axis=0)
        out = jnp.sum(out * share[..., None], axis=0, keepdims=True).astype(q.dtype)
    out = out[0].reshape(rows, kv_heads, steps, group, size).transpose(0, 2, 1, 3, 4)
    return out.reshape(rows, steps, heads * size)


def _attend_kernel(form, pages, offset, count, q_ref, k_ref, v_ref, *others):
    *scales, out_ref, normaliser_ref = others
    layer, group, queries, block, key_block, split_blocks = form
    row, split = pl.program_id(0), pl.program_id(2)
    blocks = pl.cdiv(queries, block)
    head, begin = pl.program_id(1) // blocks, pl.program_id(1) % blocks * block
    first, new = offset[row], count[row]
    page, size = k_ref.shape[-2:]
    query = begin + jnp.arange(block)
    own = (query < queries)[:, None]
    q = triton.load(q_ref.at[row, head, pl.ds(begin, block), :], mask=own, other=0.0)
    step = query // group
    # the positions that the block's last query sees, or none
    end = jnp.where(new > 0, first + jnp.minimum(new, (begin + block - 1) // group + 1), 0)

    def keys(number, carry):
        peak, mass, total = carry
        first_key = number * key_block
        place = first_key + jnp.arange(key_block)
        here = (place < end)[:, None]
        page_id = pages[row, first_key // page]
        where = (head, jnp.int32(layer), page_id, pl.ds(first_key % page, key_block), slice(None))

        def load(which: int) -> jax.Array:
            values = triton.load((k_ref, v_ref)[which].at[where], mask=here, other=0)
            if scales:
                values = values.astype(jnp.float32) * triton.load(scales[which].at[where], mask=here, other=0.0)
            return values.astype(q.dtype)

        k = load(0)
        score = dot(q, k.T) * (size**-0.5 * _LOG2_E)
        visible = (place[None] <= first + step[:, None]) & (place < end)[None]
        score = jnp.where(visible, score, _MASKED)
        new_peak = jnp.maximum(peak, jnp.max(score, axis=-1))
        weight = jnp.where(visible, jnp.exp2(score - new_peak[:, None]), 0.0)
        shrink = jnp.exp2(peak - new_peak)
        v = load(1)
        total = total * shrink[:, None] + dot(weight.astype(q.dtype), v)
        return new_peak, mass * shrink + jnp.sum(weight, axis=-1), total

    start = (jnp.full(block, _MASKED), jnp.zeros(block), jnp.zeros((block, size)))
    stop = jnp.minimum((split + 1) * split_blocks, pl.cdiv(end, key_block))
    peak, mass, total = jax.lax.fori_loop(split * split_blocks, stop, keys, start)
    some = mass > 0
    out = total / jnp.where(some, mass, 1.0)[:, None]
    triton.store(out_ref.at[split, row, head, pl.ds(begin, block), :], out.astype(out_ref.dtype), mask=own)
    # natural logarithm; what saw nothing weighs nothing beside what did
    normaliser = jnp.where(some, (peak + jnp.log2(jnp.where(some, mass, 1.0))) / _LOG2_E, _MASKED)
    triton.store(normaliser_ref.at[split, row, head, pl.ds(begin, block)], normaliser, mask=query < queries)
