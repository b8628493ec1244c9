"""Attention of one token a row over the pages where they lie, and the writing of its key and value: for TPUs.

The kernel is jax's (`paged_attention`); a row's next token is put into its page by a scatter, which XLA does in place.
A page of layer l is one of [layers * pages] here, so that no layer is sliced out of the store.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

from hypereyes_jax.models.partition import dividing, local
from hypereyes_jax.models.trip_counts import expected_bytes, expected_positions
from hypereyes_jax.rollout.cache.kv import STORE_AXES, PageStore

HEAD_DIM_UNIT = 128  # the kernel takes heads of a multiple of this many values
_BLOCK_PAGES = 8  # that it reads at a time


def put_and_attend_to_one(
    q_RTHD: jax.Array,
    k_RTKD: jax.Array,
    v_RTKD: jax.Array,
    store: PageStore,
    layer: jax.Array,
    pages_RP: jax.Array,
    offset_R: jax.Array,
    count_R: jax.Array,
) -> tuple[jax.Array, PageStore]:
    """`page_attention.put_and_attend` for T = 1, a traced layer and pages that are not int8.

    A row of count 0 writes nothing, and its result means nothing.
    """
    row, new = ("batch",), ("batch", None, "kv_heads", None)
    run = local(
        _put_and_attend,
        (("batch", None, "heads", None), new, new, STORE_AXES, (), ("batch", None), row, row),
        (("batch", None, dividing(q_RTHD.shape[2:3], ("heads",))[0]), STORE_AXES),
    )
    return run(q_RTHD, k_RTKD, v_RTKD, store, layer, pages_RP, offset_R, count_R)


def _put_and_attend(
    q: Any, k: Any, v: Any, store: PageStore, layer: Any, pages_RP: Any, offset_R: Any, count_R: Any
) -> tuple[jax.Array, PageStore]:
    heads, layers, pages, page, size = store.k.shape
    rows = q.shape[0]
    own_R = jnp.take_along_axis(pages_RP, (offset_R // page)[:, None], axis=1)[:, 0] + layer * pages
    target_R = jnp.where(count_R > 0, own_R, layers * pages)  # past the end: nowhere

    def put(leaf: jax.Array, new_R1KD: jax.Array) -> jax.Array:
        flat = leaf.reshape(heads, layers * pages, page, size)
        fresh_KRD = new_R1KD[:, 0].swapaxes(0, 1).astype(leaf.dtype)
        return flat.at[:, target_R, offset_R % page].set(fresh_KRD, mode="drop")

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
