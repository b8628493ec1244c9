"""The device programs that read: images into the pool of visual tokens, given tokens into pages.

Host numpy goes in with each call; the only state on the device is donated. A sequence's last token is never in its
cache (see `decode`), so `extend_rows` needs no logits, a prompt's cache can be shared by samples that differ from their
first token on, and an observation is extended together with the stop token before it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.partition import everywhere
from hypereyes_jax.models.qwen3_vl import Kernels, VisualFeatures, encode_images
from hypereyes_jax.models.qwen3_vl.moe import Routing
from hypereyes_jax.models.qwen3_vl.text import Attend, DecoderInputs, ForwardOptions, decode_layers, embed_tokens
from hypereyes_jax.processing.types import VisionInputs
from hypereyes_jax.rollout.cache import kv
from hypereyes_jax.rollout.cache.access import attend_in_place, heads_first, layer_numbers, stacked, views_cache

HostArray = Any  # numpy where a call is made, a tracer in the program


class ExtendRows(NamedTuple):
    """Numpy arguments of `extend_rows`. Padding rows have length 0.

    A tuple, because the driver of a replica sends it to its workers as a list of arrays; so is
    `decode.PackedDecodeRows`.
    """

    tokens_RT: HostArray  # int32
    positions_3RT: HostArray  # int32
    visual_index_RT: HostArray  # int32, row of the visual pool; -1 = text
    pages_RP: HostArray  # int32, the pages of each row's sequence, in order; any page where it has none yet
    offset_R: HostArray  # int32, positions already in the cache
    length_R: HostArray  # int32, tokens of this row; 0 on padding


@partial(jax.jit, static_argnames=("config", "kernels"), donate_argnames=("pool",))
def encode_into(
    params: Any,
    lora: Any,
    pool: VisualFeatures,
    vision: VisionInputs,
    rows_M: np.ndarray,
    *,
    config: Qwen3VLConfig,
    kernels: Kernels,
) -> VisualFeatures:
    """Encodes images; visual token j goes to row rows_M[j] of the pool, or nowhere if that is past its end.

    The pool holds one row a visual token, [rows, D] and [DeepStack layers, rows, D], for `extend_rows` to pick from.
    """
    features = encode_images(params, config, vision, lora, kernels=kernels)
    return everywhere(
        VisualFeatures(
            pool.embeds.at[rows_M].set(features.embeds.astype(pool.embeds.dtype), mode="drop"),
            pool.deepstack.at[:, rows_M].set(features.deepstack.astype(pool.deepstack.dtype), mode="drop"),
        )
    )


@partial(jax.jit, static_argnames=("config", "kernels", "view_length"), donate_argnames=("store",))
def extend_rows(
    params: Any,
    lora: Any,
    store: kv.PageStore,
    pool: VisualFeatures,
    batch: ExtendRows,
    *,
    config: Qwen3VLConfig,
    kernels: Kernels,
    view_length: int,
) -> tuple[kv.PageStore, jax.Array | None]:
    """Writes the keys and values of given tokens (text or visual) at each row's own offset.

    Unrolled, the last layer computes nothing but those.

    Returns (store, where `kernels` says so the experts that layers sent the tokens to: uint8 [layers, R, T, experts]).
    """
    length = batch.tokens_RT.shape[1]
    in_place = not views_cache(kernels, config.text)
    view: Any  # what each layer attends to
    if in_place:
        pages_RP, offset_R, length_R = (jnp.asarray(x) for x in (batch.pages_RP, batch.offset_R, batch.length_R))
        attend = attend_in_place(kernels.slots, pages_RP, offset_R, length_R)
        view = layer_numbers(kernels.slots, store)
    else:
        take = kv.take_layers if kernels.unrolled else kv.take_rows
        view = take(store, batch.pages_RP[:, : view_length // store.k.shape[3]], pool.embeds.dtype)
        attend = _attend_to_view(store, batch.offset_R)
    visual_index_RT = jnp.asarray(batch.visual_index_RT)
    x = embed_tokens(params, jnp.asarray(batch.tokens_RT), visual_index_RT, pool)
    valid_RT = jnp.arange(length) < jnp.asarray(batch.length_R)[:, None]
    _, new, routed = decode_layers(
        params,
        config,
        DecoderInputs(x, jnp.asarray(batch.positions_3RT), visual_index_RT, pool, valid_RT),
        attend,
        view,
        ForwardOptions(kernels, lora, routing=Routing(record=kernels.record_experts)),
        carried=store if in_place else None,
    )
    experts = everywhere(routed.experts) if kernels.record_experts and routed is not None else None
    if in_place:
        return kv.in_place(new), experts
    return kv.in_place(kv.put_columns(store, stacked(new), batch.pages_RP, batch.offset_R, batch.length_R)), experts


def _attend_to_view(store: kv.PageStore, offset_R: Any) -> Attend:
    first_R = jnp.zeros(jnp.shape(offset_R), jnp.int32)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, old: kv.View) -> tuple[jax.Array, kv.Columns]:
        new = heads_first(k, v, store)
        return kv.attend(q, old, offset_R, new, first_R), new

    return attend
