"""Attention over the pages where they lie, and the writing of new keys and values into them: for TPUs.

One token a row, of pages that are not int8, goes to jax's kernel (`paged_attention`). Several of them (given tokens,
drafts) and int8 pages go to a kernel of our own: jax's has neither, and its `ragged_paged_attention` wants keys and
values interleaved in pages that are int8 with one scale for all. A page of layer l is one of [layers * pages] to jax's
kernel, so that no layer is sliced out of the store. Axis letters: L layers, N pages of the store, S tokens of a page, R
rows of a call, P pages of a row, T new tokens of a row, H query heads, K key heads, Q queries that share a key head, D
values a head.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu
from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

from hypereyes_jax.models.partition import dividing, local
from hypereyes_jax.models.trip_counts import expected_bytes, expected_positions, expected_trip_count
from hypereyes_jax.rollout.cache.kv import STORE_AXES, Columns, PageStore, put_own_columns

HEAD_DIM_UNIT = 128  # the kernels take heads of a multiple of this many values
_BLOCK_PAGES = 8  # that a step of a kernel reads
_BLOCK_QUERIES = 1024  # at most, that a step multiplies with them
_LEAST_QUERIES = 16  # rows of a tile of 16-bit values
_LANES = 128
_MASKED = -1e30


def put_and_attend(
    q_RTHD: jax.Array,
    k_RTKD: jax.Array,
    v_RTKD: jax.Array,
    store: PageStore,
    layer: jax.Array,
    pages_RP: jax.Array,
    offset_R: jax.Array,
    count_R: jax.Array,
) -> tuple[jax.Array, PageStore]:
    """`page_attention.put_and_attend` for a traced layer. A row's result behind its count means nothing."""
    row, new = ("batch",), ("batch", None, "kv_heads", None)
    run = local(
        _put_and_attend_to_one if q_RTHD.shape[1] == 1 and store.k_scale is None else _put_and_attend,
        (("batch", None, "heads", None), new, new, STORE_AXES, (), ("batch", None), row, row),
        (("batch", None, dividing(q_RTHD.shape[2:3], ("heads",))[0]), STORE_AXES),
    )
    return run(q_RTHD, k_RTKD, v_RTKD, store, layer, pages_RP, offset_R, count_R)


def _put_and_attend_to_one(
    q: Any, k: Any, v: Any, store: PageStore, layer: Any, pages_RP: Any, offset_R: Any, count_R: Any
) -> tuple[jax.Array, PageStore]:
    heads, layers, pages, page, size = store.k.shape
    rows = q.shape[0]
    own_R = jnp.take_along_axis(pages_RP, (offset_R // page)[:, None], axis=1)[:, 0] + layer * pages
    target_R = jnp.where(count_R > 0, own_R, layers * pages)  # past the end: nowhere

    def put(leaf: jax.Array, new_R1KD: jax.Array) -> jax.Array:
        flat = leaf.reshape(heads, layers * pages, page, size)
        fresh_KRD = new_R1KD[:, 0].swapaxes(0, 1).astype(leaf.dtype)
        return flat.at[:, target_R, offset_R % page].set(fresh_KRD, mode="drop")  # which XLA does in place

    k_pages, v_pages = put(store.k, k), put(store.v, v)
    table_RP = jnp.pad(pages_RP, ((0, 0), (0, -pages_RP.shape[1] % _BLOCK_PAGES))) + layer * pages
    length_R = jnp.where(count_R > 0, offset_R + 1, 1).astype(jnp.int32)
    reads = 2 * rows * heads * expected_positions(pages_RP.shape[1] * page) * size * store.k.dtype.itemsize
    with expected_bytes(reads):
        out_RHD = paged_attention(
            q[:, 0] * size**-0.5, k_pages, v_pages, length_R, table_RP.astype(jnp.int32),
            pages_per_compute_block=_BLOCK_PAGES,
        )  # fmt: skip
    whole = PageStore(k_pages.reshape(store.k.shape), v_pages.reshape(store.v.shape), None, None)
    return out_RHD.reshape(rows, 1, -1).astype(q.dtype), whole


def _put_and_attend(
    q: Any, k: Any, v: Any, store: PageStore, layer: Any, pages_RP: Any, offset_R: Any, count_R: Any
) -> tuple[jax.Array, PageStore]:
    new = Columns(*(x.swapaxes(1, 2)[None] for x in (k, v)))
    store = put_own_columns(store, new, pages_RP, offset_R, count_R, layer)
    return _attend(q, store, layer, pages_RP, offset_R, count_R), store


class _Form(NamedTuple):
    """What is known of `_attend_kernel` when a program is traced."""

    group: int  # query heads of a key head
    block: int  # queries of a step
    page: int
    int8: bool


def _attend(
    q: jax.Array, store: PageStore, layer: Any, pages_RP: jax.Array, offset_R: jax.Array, count_R: jax.Array
) -> jax.Array:
    rows, steps, heads, size = q.shape
    kv_heads, page = store.k.shape[0], store.k.shape[3]
    group, most = heads // kv_heads, pages_RP.shape[1] * page
    # The queries of one key head are the rows of one matmul, token by token.
    q = q.reshape(rows, steps, kv_heads, group, size).transpose(0, 2, 1, 3, 4).reshape(rows, kv_heads, -1, size)
    count = steps * group
    block = min(_BLOCK_QUERIES, -(-count // _LEAST_QUERIES) * _LEAST_QUERIES)
    blocks = pl.cdiv(count, block)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, blocks * block - count), (0, 0)))
    form = _Form(group, block, page, store.k_scale is not None)
    own = pl.BlockSpec((None, None, block, size), lambda r, h, b, s, *_: (r, h, b, 0))
    # A scale for each position, side by side: their array of width 1 would take a whole row of lanes for each of them.
    scales = [s.swapaxes(3, 4) for s in (store.k_scale, store.v_scale) if s is not None]
    of_pages = [(store.k, (page, size)), (store.v, (page, size)), *((s, (1, page)) for s in scales)]
    # Each page of a step is an argument of its own, so that Pallas reads them ahead wherever they lie.
    pairs = [(leaf, _page_spec(shape, nth, form)) for leaf, shape in of_pages for nth in range(_BLOCK_PAGES)]
    usual = expected_positions(most)
    reads = 2 * rows * blocks * kv_heads * usual * size * store.k.dtype.itemsize
    visits = rows * kv_heads * blocks * max(1.0, usual / (_BLOCK_PAGES * page))
    with expected_bytes(reads), expected_trip_count(visits):
        out = pl.pallas_call(
            partial(_attend_kernel, form),
            grid_spec=tpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=4,
                grid=(rows, kv_heads, blocks, pl.cdiv(pages_RP.shape[1], _BLOCK_PAGES)),
                in_specs=[own, *(spec for _, spec in pairs)],
                out_specs=own,
                scratch_shapes=[
                    tpu.VMEM((block, _LANES), jnp.float32),
                    tpu.VMEM((block, _LANES), jnp.float32),
                    tpu.VMEM((block, size), jnp.float32),
                ],
            ),
            out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
            compiler_params=tpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
            ),
            name="attend_to_pages",
        )(
            *(jnp.asarray(x, jnp.int32) for x in (jnp.reshape(layer, 1), pages_RP, offset_R, count_R)),
            q, *(leaf for leaf, _ in pairs),
        )  # fmt: skip
    out = out[:, :, :count].reshape(rows, kv_heads, steps, group, size).transpose(0, 2, 1, 3, 4)
    return out.reshape(rows, steps, heads * size)


def _page_spec(shape: tuple[int, int], nth: int, form: _Form) -> pl.BlockSpec:
    """The nth page of each step. What lies behind the last one that is seen is that one again, and so not read."""

    def place(row: Any, head: Any, block: Any, step: Any, layer: Any, pages: Any, offset: Any, count: Any) -> Any:
        end = _end(form, block, offset[row], count[row])
        number = jnp.minimum(step * _BLOCK_PAGES + nth, jnp.maximum(end - 1, 0) // form.page)
        return head, layer[0], pages[row, number], 0, 0

    return pl.BlockSpec((None, None, None, *shape), place)


def _end(form: _Form, block: Any, offset: Any, count: Any) -> Any:
    """Number of positions that the last query of a block sees; 0 for a row that has no new ones."""
    seen = jnp.minimum(count, ((block + 1) * form.block - 1) // form.group + 1)
    return jnp.where(count > 0, offset + seen, 0)


def _attend_kernel(form: _Form, layer: Any, pages: Any, offset_ref: Any, count_ref: Any, q_ref: Any, *others: Any):
    *read, out_ref, peak_ref, mass_ref, total_ref = others
    k_refs, v_refs, *scale_refs = (read[n : n + _BLOCK_PAGES] for n in range(0, len(read), _BLOCK_PAGES))
    row, block, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    offset, count = offset_ref[row], count_ref[row]
    end, size = _end(form, block, offset, count), q_ref.shape[-1]
    keys = _BLOCK_PAGES * form.page

    @pl.when(step == 0)
    def _begin():
        peak_ref[...] = jnp.full_like(peak_ref, _MASKED)
        mass_ref[...] = jnp.zeros_like(mass_ref)
        total_ref[...] = jnp.zeros_like(total_ref)

    @pl.when(step * keys < end)
    def _add():
        def joined(refs: Any, axis: int) -> jax.Array:
            return jnp.concatenate([ref[...].astype(q_ref.dtype) for ref in refs], axis=axis)

        def scale(which: int) -> jax.Array:
            return jnp.concatenate([ref[...] for ref in scale_refs[which]], axis=1)

        def product(a: jax.Array, b: jax.Array, contracted: int) -> jax.Array:
            return jax.lax.dot_general(a, b, (((1,), (contracted,)), ((), ())), preferred_element_type=jnp.float32)

        score = product(q_ref[...], joined(k_refs, 0), 1) * size**-0.5
        if form.int8:
            score *= scale(0)
        place = step * keys + jax.lax.broadcasted_iota(jnp.int32, score.shape, 1)
        query = block * form.block + jax.lax.broadcasted_iota(jnp.int32, score.shape, 0)
        token = jnp.minimum(jax.lax.div(query, form.group), count - 1)
        visible = place <= offset + token
        score = jnp.where(visible, score, _MASKED)
        peak = peak_ref[:, :1]
        new_peak = jnp.maximum(peak, jnp.max(score, axis=1, keepdims=True))
        weight = jnp.where(visible, jnp.exp(score - new_peak), 0.0)
        shrink = jnp.exp(peak - new_peak)
        mass = mass_ref[:, :1] * shrink + jnp.sum(weight, axis=1, keepdims=True)
        if form.int8:
            weight *= scale(1)
        values = joined(v_refs, 0)
        here = step * keys + jax.lax.broadcasted_iota(jnp.int32, values.shape, 0) < end
        values = jnp.where(here, values, 0)  # what nobody has written yet may be anything, and 0 * NaN is NaN
        total_ref[...] = total_ref[...] * shrink + product(weight.astype(q_ref.dtype), values, 0)
        peak_ref[...] = jnp.broadcast_to(new_peak, peak_ref.shape)
        mass_ref[...] = jnp.broadcast_to(mass, mass_ref.shape)

    @pl.when(step == pl.num_programs(3) - 1)
    def _finish():
        mass = mass_ref[:, :1]
        out_ref[...] = (total_ref[...] / jnp.where(mass > 0, mass, 1.0)).astype(out_ref.dtype)
