"""Incremental decoding gives the logits of one full forward at every position."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.models.qwen3_vl import encode_images, extend, forward, init_cache, init_params, lm_head
from hypereyes_jax.processing import expand, pack_inputs, patchify, vision_inputs
from tests.models.test_parity import FAST_COMPILE
from tests.models.torch_reference import CONFIGS, image_tokens, photo, words

TOLERANCE = 1e-4  # of the logits' largest magnitude: float32, keys read back from a cache in float32


def chunks_of(config, slot: int) -> list[tuple[list[int], list]]:
    """Prompt with images, sampled turn, observation with new images, next turn; of another length for each slot."""
    unit = config.vision.pixel_multiple
    still = functools.partial(patchify, config=config.vision, min_pixels=unit**2, max_pixels=30 * unit**2)
    image = image_tokens(config)
    observation = [still(photo((2 + slot) * unit, 2 * unit, 9)), still(photo(unit, 3 * unit, 8))]
    return [
        (words(3 + 4 * slot, slot) + image + words(2, 1), [still(photo(3 * unit, (1 + slot) * unit, slot))]),
        (words(3, 10 + slot), []),
        (words(1, 20) + image + image + words(2 + slot, 21), observation),
        (words(2 + slot, 30), []),
    ]


@pytest.mark.parametrize("name", ["dense", "wide heads", "moe"])
def test_slots_of_different_lengths_match_one_full_forward(name):
    config = CONFIGS[name]
    params = init_params(jax.random.key(0), config)
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 2 else x, params)  # far from the identity
    slots, span = 3, 96
    conversations = [chunks_of(config, slot) for slot in range(slots)]
    whole = [
        (functools.reduce(operator.iadd, (t for t, _ in c), []), functools.reduce(operator.iadd, (i for _, i in c), []))
        for c in conversations
    ]
    inputs = pack_inputs(config, whole)
    full = np.asarray(jax.jit(forward, static_argnums=1, compiler_options=FAST_COMPILE)(params, config, inputs))

    run = jax.jit(extend, static_argnums=1, donate_argnums=6, compiler_options=FAST_COMPILE)
    encode = jax.jit(encode_images, static_argnums=1, compiler_options=FAST_COMPILE)
    head = lm_head(params, config)
    cache, offset, position = init_cache(config, slots, span), np.zeros(slots, np.int32), [0] * slots
    worst = 0.0

    def feed(rows, visual, width):
        nonlocal cache, offset, worst
        tokens, visual_index = np.zeros((slots, width), np.int32), np.full((slots, width), -1, np.int32)
        positions, length = np.zeros((3, slots, width), np.int32), np.zeros(slots, np.int32)
        for s, row in enumerate(rows):
            if row is None:
                continue  # a parked slot
            n = length[s] = len(row.tokens_T)
            tokens[s, :n], positions[:, s, :n], visual_index[s, :n] = row[:3]
        hidden, cache = run(params, config, tokens, positions, visual_index, visual, cache, offset, length)
        logits = np.asarray(hidden @ head)
        for s, n in enumerate(length):
            expected = full[s, offset[s] : offset[s] + n]
            if n:
                worst = max(worst, np.abs(logits[s, :n] - expected).max() / np.abs(full).max())
        offset = offset + length

    for stage in range(4):
        rows, images, seen = [], [], 0
        for s in range(slots):
            tokens, new = conversations[s][stage]
            row = expand(config, tokens, new, start=position[s])
            position[s] = row.next_position
            rows.append(row._replace(visual_index_T=np.where(row.visual_index_T < 0, -1, row.visual_index_T + seen)))
            seen += int((row.visual_index_T >= 0).sum())
            images += new
        if images:
            feed(rows, encode(params, config, vision_inputs(config.vision, images, (8, 64))), 32)
        else:  # a sampled turn: one token a step, slots that have finished are parked
            for step in range(max(len(row.tokens_T) for row in rows)):
                cut = slice(step, step + 1)
                feed(
                    [
                        row._replace(
                            tokens_T=row.tokens_T[cut],
                            positions_3T=row.positions_3T[:, cut],
                            visual_index_T=row.visual_index_T[cut],
                        )
                        if step < len(row.tokens_T)
                        else None
                        for row in rows
                    ],
                    None,
                    1,
                )
    assert worst <= TOLERANCE
    assert offset.tolist() == [len(expand(config, *sample).tokens_T) for sample in whole]


def test_a_view_of_some_slots_and_first_positions_decodes_the_same():
    config = CONFIGS["dense"]
    params = init_params(jax.random.key(0), config)
    run = jax.jit(extend, static_argnums=1, compiler_options=FAST_COMPILE)
    tokens = np.array([words(12, s) for s in range(4)], np.int32)
    positions = np.broadcast_to(np.arange(12), (3, 4, 12))
    text = np.full((4, 12), -1)
    _, cache = run(
        params, config, tokens, positions, text, None, init_cache(config, 4, 48), np.zeros(4, np.int32), np.full(4, 12)
    )
    step = (tokens[:, :1], positions[:, :, :1] + 12, text[:, :1])
    whole, _ = run(params, config, *step, None, cache, np.full(4, 12), np.ones(4, np.int32))
    picked = np.array([3, 1])
    view = jax.tree.map(lambda x: x[:, picked, :16], cache)
    part, _ = run(
        params,
        config,
        step[0][picked],
        step[1][:, picked],
        step[2][picked],
        None,
        view,
        np.full(2, 12),
        np.ones(2, int),
    )
    np.testing.assert_allclose(part, whole[picked], rtol=0, atol=1e-5)


def test_a_parked_slot_keeps_its_cache_and_nothing_else_is_written():
    config = CONFIGS["dense"]
    params = init_params(jax.random.key(0), config)
    cache = jax.tree.map(lambda x: x + 7.0, init_cache(config, 2, 8))
    _, after = jax.jit(extend, static_argnums=1, compiler_options=FAST_COMPILE)(
        params,
        config,
        np.ones((2, 4), np.int32),
        np.zeros((3, 2, 4), np.int32),
        np.full((2, 4), -1),
        None,
        cache,
        np.array([6, 0]),
        np.array([2, 0]),
    )
    for array in after:
        assert (array[:, 1] == 7).all(), "a slot of length 0 was written"
        assert (array[:, 0, :6] == 7).all(), "tokens past the row's length were written"
        assert (array[:, 0, 6:] != 7).any(axis=(-1, -2)).all()


def test_the_cache_is_updated_in_place():
    config = CONFIGS["dense"]
    params = init_params(jax.random.key(0), config)
    cache = init_cache(config, 64, 256)
    arguments = (np.zeros((64, 1), np.int32), np.zeros((3, 64, 1), np.int32), np.full((64, 1), -1), None)
    run = jax.jit(extend, static_argnums=1, donate_argnums=6)
    compiled = run.lower(params, config, *arguments, cache, jnp.zeros(64, int), jnp.ones(64, int)).compile()
    # temporaries hold one layer's view at a time, never the whole cache
    assert compiled.memory_analysis().temp_size_in_bytes < sum(x.nbytes for x in cache)
