"""The device program that samples.

Host numpy goes in with each call; the only state on the device is donated. A sequence's last token is never in its
cache: a step is fed it, writes its key and value, and samples the next.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.partition import everywhere
from hypereyes_jax.models.qwen3_vl import Kernels, lm_head
from hypereyes_jax.models.qwen3_vl.moe import Routed, Routing
from hypereyes_jax.models.qwen3_vl.text import (
    DecoderInputs,
    ForwardOptions,
    decode_layers,
    embed_tokens,
    layers_apart,
)
from hypereyes_jax.models.trip_counts import expected_trip_count
from hypereyes_jax.rollout.cache import kv
from hypereyes_jax.rollout.cache.access import DecodeSize, cache_access
from hypereyes_jax.rollout.programs.drafts import accepted, propose
from hypereyes_jax.rollout.programs.sampling import sample, uniforms

MAX_STOP_IDS = 4
_KEY = slice(6, 8)  # of the columns of `PackedDecodeRows.ints_RI`
_STOP_IDS = slice(8, 8 + MAX_STOP_IDS)
HostArray = Any  # numpy where a call is made, a tracer in the program


class DecodeRows(NamedTuple):
    """Arguments of `decode_rows`. Padding rows have budget 0."""

    pages_RP: HostArray  # int32, the pages of each row's sequence, in order; any page where it has none yet
    token_R: HostArray  # int32, the last token, not yet in the cache
    offset_R: HostArray  # int32, where it goes
    position_R: HostArray  # int32, its M-RoPE position (a text token's three are equal)
    budget_R: HostArray  # int32, tokens it may still sample
    sampled_R: HostArray  # int32, tokens the request has sampled before: its random stream's place
    keys_R2: HostArray  # uint32
    stop_RS: HostArray  # int32, ids that end a turn; -1 on padding
    temperature_R: HostArray  # float32
    top_p_R: HostArray  # float32
    top_k_R: HostArray  # int32
    min_p_R: HostArray  # float32
    steps: HostArray  # int32 scalar, at most the program's `max_steps`


class PackedDecodeRows(NamedTuple):
    """`DecodeRows` in few arrays: each numpy argument costs a call some 15 microseconds, whatever its size.

    With drafts, `known_RN` tells from what they may be copied; its rows end with a row's last token.
    """

    # int32: token, offset, position, budget, sampled, top_k, the key's two words, stop ids, pages
    ints_RI: HostArray
    floats_RF: HostArray  # float32: temperature, top_p, min_p
    steps: HostArray
    known_RN: HostArray | None = None  # int32, -1 where there is no token

    @classmethod
    def padding(cls, rows: int, steps: int, pages: int) -> PackedDecodeRows:
        """Numpy arrays to be filled in with `put`.

        Args:
          pages: of a sequence that is as long as it may be.
        """
        ints_RI = np.zeros((rows, _STOP_IDS.stop + pages), np.int32)
        ints_RI[:, _STOP_IDS] = -1
        return cls(ints_RI, np.ones((rows, 3), np.float32), np.int32(steps))

    def put(self, row: int, numbers: Items[int], key_2: np.ndarray, stop_ids: Items[int], pages: Items[int]) -> None:
        """Fills in a row. Numbers are token, offset, position, budget, sampled, top_k."""
        ints = self.ints_RI[row]
        ints[: _KEY.start] = numbers
        ints[_KEY] = key_2.view(np.int32)
        ints[_STOP_IDS.start : _STOP_IDS.start + len(stop_ids)] = stop_ids
        ints[_STOP_IDS.stop : _STOP_IDS.stop + len(pages)] = pages

    def unpacked(self) -> DecodeRows:
        ints, floats = jnp.asarray(self.ints_RI), jnp.asarray(self.floats_RF)
        token, offset, position, budget, sampled, top_k = ints[:, : _KEY.start].T
        temperature, top_p, min_p = floats.T
        return DecodeRows(
            pages_RP=ints[:, _STOP_IDS.stop :],
            token_R=token,
            offset_R=offset,
            position_R=position,
            budget_R=budget,
            sampled_R=sampled,
            keys_R2=jax.lax.bitcast_convert_type(ints[:, _KEY], jnp.uint32),
            stop_RS=ints[:, _STOP_IDS],
            temperature_R=temperature,
            top_p_R=top_p,
            top_k_R=top_k,
            min_p_R=min_p,
            steps=self.steps,
        )


class Decoded(struct.PyTreeNode):
    """What a call sampled, K = max_steps * (draft_tokens + 1). `Device.decode` gives it as numpy."""

    tokens_KR: HostArray  # int32
    logp_2KR: HostArray  # float32: truncated, full
    count_R: HostArray  # int32, how many of the K are real
    steps_R: HostArray  # int32, in how many steps they were sampled
    stopped_R: HostArray  # bool, the last one is a stop id
    experts_KLRC: HostArray = None  # uint8, the C experts that each layer sent the token before it to; None: not asked


class _Decoding(NamedTuple):
    """What the steps of a decode call hand on."""

    step: jax.Array
    cache: Any  # of `cache.access`
    token_R: jax.Array  # the last one, not yet in the cache
    alive_R: jax.Array
    stopped_R: jax.Array
    count_R: jax.Array
    steps_R: jax.Array
    tokens_KR: jax.Array
    logp_2KR: jax.Array
    experts_KLRC: jax.Array | None
    known_RN: jax.Array | None  # what drafts are copied from, with room for what this call samples


@partial(
    jax.jit,
    static_argnames=("config", "kernels", "size", "forbidden"),
    donate_argnames=("store",),
)
def decode_rows(
    params: Any,
    lora: Any,
    store: kv.PageStore,
    packed: PackedDecodeRows,
    *,
    config: Qwen3VLConfig,
    kernels: Kernels,
    size: DecodeSize,
    forbidden: tuple[int, ...] = (),
) -> tuple[kv.PageStore, Decoded]:
    """Samples in every row, for up to `steps` steps; where `kernels` says so, it tells the experts of mixtures, too.

    A step samples a token, or with drafts up to `draft_tokens` more: it is fed that many guesses behind the last token.

    Returns early when all rows have stopped or spent their budgets, except where `kernels` asks for known trip counts:
    a GPU waits for the host to see a loop end early, and computes `max_steps` steps of which the last may be idle.
    """
    _, max_steps, draft_tokens = size
    batch = packed.unpacked()
    head_DV = lm_head(params, config)
    rows, width = batch.offset_R.shape[0], draft_tokens + 1
    most, known = size.new_tokens, 0 if packed.known_RN is None else packed.known_RN.shape[1]
    text_RT, place_T = jnp.full((rows, width), -1, jnp.int32), jnp.arange(width)
    access = cache_access(
        store, batch.pages_RP, batch.offset_R, text=config.text, kernels=kernels, size=size, dtype=head_DV.dtype
    )
    apart = layers_apart(params, config, lora) if kernels.unrolled else None

    def goes_on(carry: _Decoding) -> jax.Array:
        return (carry.step < batch.steps) & carry.alive_R.any()

    def one_step(carry: _Decoding) -> _Decoding:
        alive_R, count_R, known_RN = carry.alive_R, carry.count_R, carry.known_RN
        drafts_RJ = None if known_RN is None else propose(known_RN, known - 1 + count_R, draft_tokens)
        fed_RT = jnp.column_stack([carry.token_R] if drafts_RJ is None else [carry.token_R, drafts_RJ])
        fed_R = jnp.where(alive_R, jnp.minimum(batch.budget_R - count_R, width), 0)
        # Without drafts all rows that are alive are at one place, which costs less to write to.
        place = carry.step if drafts_RJ is None else count_R
        attend, attend_xs, carried = access.step(carry.cache, place, fed_R)
        hidden_RTD, of_layers, routed = decode_layers(
            params,
            config,
            DecoderInputs(
                embed_tokens(params, fed_RT, text_RT, None),
                jnp.broadcast_to((batch.position_R + count_R)[:, None] + place_T, (3, rows, width)),
                text_RT,
                None,
                place_T < fed_R[:, None],
            ),
            attend,
            attend_xs,
            ForwardOptions(kernels, lora, routing=Routing(record=kernels.record_experts)),
            apart,
            carried,
        )
        draw = _draw_step(hidden_RTD, head_DV, batch, count_R, forbidden, kernels.known_trip_count)
        kept_R, stops_R = _kept(draw.tokens_RT, drafts_RJ, fed_R, batch.stop_RS)
        last_R1 = jnp.maximum(kept_R, 1)[:, None] - 1
        going_R = alive_R & ~stops_R & (count_R + kept_R < batch.budget_R)
        if kernels.known_trip_count:
            going_R &= carry.step + 1 < batch.steps
        if known_RN is not None:
            known_RN = _appended(known_RN, draw.tokens_RT, known + count_R, kept_R)
        note = partial(_noted, place=place, kept_R=kept_R)
        return _Decoding(
            step=carry.step + 1,
            cache=access.after(carry.cache, of_layers, place),
            token_R=jnp.where(alive_R, jnp.take_along_axis(draw.tokens_RT, last_R1, axis=1)[:, 0], carry.token_R),
            alive_R=going_R,
            stopped_R=carry.stopped_R | stops_R,
            count_R=count_R + kept_R,
            steps_R=carry.steps_R + alive_R,
            tokens_KR=note(carry.tokens_KR, draw.tokens_RT),
            logp_2KR=jax.vmap(note)(carry.logp_2KR, draw.logp_2RT),
            experts_KLRC=_with_experts(carry.experts_KLRC, routed, note),
            known_RN=known_RN,
        )

    start = _Decoding(
        step=jnp.int32(0),
        cache=access.start,
        token_R=batch.token_R,
        alive_R=batch.budget_R > 0,
        stopped_R=jnp.zeros(rows, bool),
        count_R=jnp.zeros(rows, jnp.int32),
        steps_R=jnp.zeros(rows, jnp.int32),
        tokens_KR=jnp.zeros((most, rows), jnp.int32),
        logp_2KR=jnp.zeros((2, most, rows), jnp.float32),
        experts_KLRC=_no_experts(config, most, rows) if kernels.record_experts else None,
        known_RN=jnp.pad(jnp.asarray(packed.known_RN), ((0, 0), (0, most))) if draft_tokens else None,
    )
    if kernels.known_trip_count:
        end = jax.lax.fori_loop(0, max_steps, lambda _, carry: one_step(carry), start)
    else:
        with expected_trip_count(max_steps):
            end = jax.lax.while_loop(goes_on, one_step, start)
    return kv.in_place(access.finished(end.cache, end.count_R)), everywhere(
        Decoded(end.tokens_KR, end.logp_2KR, end.count_R, end.steps_R, end.stopped_R, end.experts_KLRC)
    )


class _StepDraw(NamedTuple):
    """A token behind each of those that a step was fed, T of them."""

    tokens_RT: jax.Array
    logp_2RT: jax.Array  # truncated, full


def _draw_step(
    hidden_RTD: jax.Array,
    head_DV: jax.Array,
    batch: DecodeRows,
    count_R: jax.Array,
    forbidden: tuple[int, ...],
    branchless: bool,
) -> _StepDraw:
    """Each place draws with the random number that it has in its request's stream."""
    rows, width = hidden_RTD.shape[:2]
    hidden_BD = hidden_RTD.reshape(rows * width, -1)
    logits_BV = jnp.einsum("bd,dv->bv", hidden_BD, head_DV, preferred_element_type=jnp.float32)
    index_RT = (batch.sampled_R + count_R)[:, None] + jnp.arange(width)
    by_row = (batch.keys_R2, batch.temperature_R, batch.top_p_R, batch.top_k_R, batch.min_p_R)
    keys_B2, temperature_B, top_p_B, top_k_B, min_p_B = (jnp.repeat(each_R, width, axis=0) for each_R in by_row)
    uniform_B = uniforms(keys_B2, index_RT.reshape(-1))
    draw = sample(logits_BV, uniform_B, temperature_B, top_p_B, top_k_B, min_p_B, forbidden, branchless=branchless)
    logp_2B = jnp.stack([draw.logp_truncated_R, draw.logp_full_R])
    return _StepDraw(draw.tokens_R.reshape(rows, width), logp_2B.reshape(2, rows, width))


def _kept(
    tokens_RT: jax.Array, drafts_RJ: jax.Array | None, fed_R: jax.Array, stop_RS: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(how many of a step's tokens count, whether the last of them is a stop id)."""
    true_R = fed_R if drafts_RJ is None else jnp.minimum(accepted(drafts_RJ, tokens_RT), fed_R)
    place_T = jnp.arange(tokens_RT.shape[1])
    stops_RT = (tokens_RT[:, :, None] == stop_RS[:, None]).any(-1) & (place_T < true_R[:, None])
    stops_R = stops_RT.any(-1)
    return jnp.where(stops_R, jnp.argmax(stops_RT, axis=-1) + 1, true_R), stops_R


def _noted(old_KR: jax.Array, fresh_RT: jax.Array, place: jax.Array, kept_R: jax.Array) -> jax.Array:
    """What a call has sampled so far, with the tokens of this step that count; further axes may follow.

    Where all rows are at one place, what is noted of rows that don't decode is never looked at.
    """
    if not place.ndim:
        return old_KR.at[place].set(fresh_RT[:, 0])
    rows, width = fresh_RT.shape[:2]
    place_RT = _places(place, kept_R, width, old_KR.shape[0])
    return old_KR.at[place_RT, jnp.arange(rows)[:, None]].set(fresh_RT, mode="drop")


def _appended(known_RN: jax.Array, tokens_RT: jax.Array, place_R: jax.Array, kept_R: jax.Array) -> jax.Array:
    rows, width = tokens_RT.shape
    place_RT = _places(place_R, kept_R, width, known_RN.shape[1])
    return known_RN.at[jnp.arange(rows)[:, None], place_RT].set(tokens_RT, mode="drop")


def _places(first_R: jax.Array, count_R: jax.Array, width: int, nowhere: int) -> jax.Array:
    """int [R, width]: places from a row's first on, for as many tokens as count."""
    place_T = jnp.arange(width)
    return jnp.where(place_T < count_R[:, None], first_R[:, None] + place_T, nowhere)


def _with_experts(
    experts_KLRC: jax.Array | None, routed: Routed | None, note: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array | None:
    """The experts of the tokens so far, with those that this step was fed and that count."""
    if experts_KLRC is None or routed is None or routed.experts is None:
        return experts_KLRC
    return note(experts_KLRC.swapaxes(1, 2), routed.experts.transpose(1, 2, 0, 3)).swapaxes(1, 2)


def _no_experts(config: Qwen3VLConfig, steps: int, rows: int) -> jax.Array:
    text = config.text
    return jnp.zeros((steps, text.num_hidden_layers, rows, text.num_experts_per_tok), jnp.uint8)
