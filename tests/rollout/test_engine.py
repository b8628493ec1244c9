"""The engine against the whole-batch forward pass, and against itself under every way of getting a cache."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.models.quantized import Quantized
from hypereyes_jax.models.qwen3_vl import forward
from hypereyes_jax.models.qwen3_vl.weights import in_int8
from hypereyes_jax.processing import ContextChunk, pack_inputs
from hypereyes_jax.rollout import DecodeRequest, Engine
from hypereyes_jax.rollout.cache.kv import bytes_per_token
from hypereyes_jax.rollout.servers.weight_check import EchoError, echo_check
from tests.random_weights import random_params
from tests.rollout.paced import SAMPLING, SETTINGS, picture

GREEDY = SamplingConfig(temperature=0.0, top_p=1.0)
_forward = jax.jit(forward, static_argnames="config")


def context(config, seed, texts=(9, 7), images=1) -> ContextChunk:
    """Random text with images between."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    for n in texts:
        ids += rng.integers(20, 280, n).tolist()
        if images:
            ids += [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]
            images -= 1
        shown = sum(i == config.image_token_id for i in ids)
    pictures = tuple(picture(seed, n, size=(24 + 16 * (n % 2), 40)) for n in range(shown))
    return ContextChunk(np.array([*ids, 21], np.int32), pictures)


def start(engine, contexts, seeds=None):
    sequences = []
    for number, chunk in enumerate(contexts):
        sequence = engine.new_sequence((seeds or range(100))[number])
        sequence.append_context(engine.prepare(chunk))
        assert engine.acquire(sequence)
        sequences.append(sequence)
    return sequences


def read(engine, sequences):
    while unread := [s for s in sequences if s.unread]:
        engine.extend(unread)


def decode(engine, sequences, count, sampling=SAMPLING):
    """`count` tokens each, over several calls; list of (tokens, truncated, full)."""
    parts = [[] for _ in sequences]
    left = count
    while left:
        step = min(left, SETTINGS.max_steps)
        requests = [DecodeRequest(s, sampling, (), step) for s in sequences]
        for part, out in zip(parts, engine.decode(requests), strict=True):
            part.append(out)
        left -= step
    return [
        tuple(np.concatenate([getattr(p, name) for p in part]) for name in ("tokens", "logp_truncated", "logp_full"))
        for part in parts
    ]


def test_greedy_tokens_and_log_probs_are_those_of_the_whole_forward_pass(config, params, make_engine):
    engine = make_engine()
    firsts = [
        context(config, 1, images=0),
        context(config, 2, (30, 12), images=1),
        context(config, 3, (3, 4), images=2),
    ]
    seconds = [
        context(config, 4, images=1),
        context(config, 5, (2, 2), images=0),
        context(config, 6, (40, 3), images=1),
    ]
    sequences = start(engine, firsts)
    read(engine, sequences)
    turns = [decode(engine, sequences, 6, GREEDY)]
    for sequence, chunk in zip(sequences, seconds, strict=True):
        sequence.append_context(engine.prepare(chunk))
    read(engine, sequences)
    turns.append(decode(engine, sequences, 6, GREEDY))

    for row, sequence in enumerate(sequences):
        record = [firsts[row].tokens, turns[0][row][0], seconds[row].tokens, turns[1][row][0]]
        images = [*firsts[row].images, *seconds[row].images]
        inputs = pack_inputs(config, [(np.concatenate(record), images)], SETTINGS.min_pixels, SETTINGS.max_pixels)
        n = sequence.length
        np.testing.assert_array_equal(inputs.tokens_BT[0, :n], sequence.tokens[:n])
        np.testing.assert_array_equal(inputs.positions_3BT[:, 0, :n], sequence.positions_3[:, :n])
        logits_TV = np.array(_forward(params, config, inputs)[0])
        logp_TV = np.asarray(jax.nn.log_softmax(logits_TV))
        logits_TV[:, list(engine.device.forbidden)] = -np.inf
        tokens, _, full = turns[1][row]
        places = np.arange(n - len(tokens), n) - 1
        np.testing.assert_array_equal(logits_TV[places].argmax(-1), tokens)
        np.testing.assert_allclose(full, logp_TV[places, tokens], atol=2e-5)


@pytest.mark.parametrize("experts", [0, 4])
def test_sampled_tokens_do_not_depend_on_who_shares_the_batch(config, params, experts):
    if experts:
        text = replace(config.text, num_experts=experts, num_experts_per_tok=2, moe_intermediate_size=16)
        config = replace(config, text=text)
        params = random_params(config, 1)
    contexts = [context(config, n, (5 + 9 * n, 3), images=n % 2) for n in range(4)]
    engine = Engine(config, params, SETTINGS)
    sequences = start(engine, contexts)
    read(engine, sequences)
    together = decode(engine, sequences, 8)
    for number in (1, 3):
        alone = Engine(config, params, SETTINGS)
        (sequence,) = start(alone, contexts[number : number + 1], [number])
        read(alone, [sequence])
        (single,) = decode(alone, [sequence], 8)
        np.testing.assert_array_equal(single[0], together[number][0])
        np.testing.assert_allclose(single[1:], together[number][1:], atol=1e-5)


def test_a_copied_a_restored_and_a_reread_cache_continue_alike(config, make_engine):
    engine = make_engine()
    chunk = context(config, 7, (20, 20), images=1)
    first, second = start(engine, [chunk, chunk], [5, 5])
    read(engine, [first])
    engine.share(first, [second], first.filled)
    assert not second.unread
    kept, copied = decode(engine, [first, second], 6)
    np.testing.assert_array_equal(kept[0], copied[0])
    assert engine.counts.shared_tokens == first.length - 1 - 6
    assert engine.images.encoded == 1

    saved = engine.save(engine.cached(first))
    assert sum(x.nbytes for x in jax.tree.leaves(saved.kept)) == engine.saved_bytes(first.filled)
    for sequence in (first, second):
        engine.release(sequence)
    (other,) = start(engine, [context(config, 8)])  # takes a slot over
    read(engine, [other])
    assert engine.acquire(first)
    assert engine.acquire(second)
    engine.restore(first, saved)
    read(engine, [second])  # from its record
    restored, reread = decode(engine, [first, second], 6)
    np.testing.assert_array_equal(restored[0], reread[0])
    np.testing.assert_allclose(restored[2], reread[2], atol=1e-5)


def test_images_are_kept_by_content_and_encoded_again_when_they_had_to_go(config, make_engine):
    engine = make_engine(visual_tokens=4)  # one image at a time
    (sequence,) = start(engine, [context(config, 9, (30, 30), images=2)])
    read(engine, [sequence])
    ((tokens, *_),) = decode(engine, [sequence], 4)
    assert engine.images.encoded == 2
    engine.release(sequence)
    engine.acquire(sequence)
    read(engine, [sequence])
    assert engine.images.encoded == 4
    plenty = make_engine()
    (same,) = start(plenty, [context(config, 9, (30, 30), images=2)])
    read(plenty, [same])
    np.testing.assert_array_equal(decode(plenty, [same], 4)[0][0], tokens)
    plenty.release(same)
    plenty.acquire(same)
    read(plenty, [same])
    assert plenty.images.encoded == 2
    assert plenty.images.hits >= 2


@pytest.mark.parametrize(("kind", "bound"), [("bfloat16", 0.05), ("int8", 0.1)])
def test_smaller_caches_keep_log_probs_within_a_bound(config, make_engine, kind, bound):
    chunk = context(config, 10, (30, 20), images=1)
    rows = []
    for settings in ({}, {"kv": kind}):
        engine = make_engine(**settings)
        (sequence,) = start(engine, [chunk])
        read(engine, [sequence])
        rows.append(decode(engine, [sequence], 4, GREEDY)[0])
    np.testing.assert_array_equal(rows[0][0], rows[1][0])
    error = np.abs(rows[0][2] - rows[1][2]).max()
    assert 0 < error < bound


def test_weights_in_int8_are_sampled_with_as_they_are_rounded(config, params, make_engine):
    """Exactly as a plain engine samples with the numbers that they stand for; new weights are rounded as they come."""
    chunk = context(config, 10, (30, 20), images=1)

    def played(engine):
        (sequence,) = start(engine, [chunk])
        read(engine, [sequence])
        return decode(engine, [sequence], 4, GREEDY)[0]

    def plain(weight):
        return weight.values.astype("float32") * weight.scale if isinstance(weight, Quantized) else weight

    small = make_engine(weights="int8")
    rounded = jax.tree.map(plain, in_int8(params, config), is_leaf=lambda leaf: isinstance(leaf, Quantized))
    reference = make_engine()
    before = played(reference)
    reference.set_weights(rounded, None, 1)
    ours, theirs = played(small), played(reference)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[2], theirs[2], atol=1e-5)
    assert 0 < np.abs(ours[2] - before[2]).max() < 0.1

    held = sum(leaf.nbytes for leaf in jax.tree.leaves(small.device.params["layers"]))
    given = sum(leaf.nbytes for leaf in jax.tree.leaves(params["layers"]))
    assert held < 0.4 * given  # of float32; scales weigh more in a model this narrow
    small.set_weights(jax.tree.map(lambda leaf: 2 * leaf, params), None, 1)
    scales = [tree["layers"]["q"].scale for tree in (small.device.params, in_int8(params, config))]
    np.testing.assert_array_equal(scales[0], 2 * scales[1])


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_memory_on_the_device_is_what_is_planned_before_and_after_use(config, make_engine, kind):
    def held(engine):
        return sum(x.nbytes for x in jax.tree.leaves((engine.device.store, engine.device.pool)))

    engine = make_engine(kv=kind)
    cache = bytes_per_token(config, kind) * SETTINGS.context * (SETTINGS.slots + 1)
    deepstack = len(config.vision.deepstack_visual_indexes)
    images = SETTINGS.visual_tokens * config.text.hidden_size * (1 + deepstack) * 4
    assert held(engine) == cache + images
    sequences = start(engine, [context(config, n, (30, 20), images=1) for n in range(SETTINGS.slots)])
    read(engine, sequences)
    decode(engine, sequences, 6)
    assert held(engine) == cache + images


def test_echo_check_tells_the_weights_in_use_from_others(config, params, make_engine):
    engine = make_engine()
    probe = np.arange(30, 42, dtype=np.int32)
    assert echo_check(engine, params, None, probe) < 1e-4
    nudged = jax.tree.map(lambda x: x * 1.01, params)
    with pytest.raises(EchoError, match="does not sample from"):
        echo_check(engine, nudged, None, probe)
    engine.set_weights(nudged, None, 7)
    assert echo_check(engine, nudged, None, probe) < 1e-4
    assert engine.free_slots == SETTINGS.slots


def test_weights_of_another_shape_are_refused(config, params, make_engine):
    engine = make_engine()
    with pytest.raises(ValueError, match="differ from the engine's"):
        engine.set_weights(jax.tree.map(lambda x: x[..., :1], params), None, 1)
    assert engine.version == 0


def test_misuse_is_refused_by_name(config, make_engine):
    engine = make_engine()
    (sequence,) = start(engine, [context(config, 11)])
    with pytest.raises(ValueError, match="nothing unread"):
        engine.decode([DecodeRequest(sequence, SAMPLING, (), 1)])
    read(engine, [sequence])
    with pytest.raises(ValueError, match="unread tokens"):
        engine.extend([sequence])
    with pytest.raises(ValueError, match="room in the slot"):
        engine.decode([DecodeRequest(sequence, SAMPLING, (), SETTINGS.context)])
    with pytest.raises(ValueError, match="stop ids"):
        engine.decode([DecodeRequest(sequence, SAMPLING, (1, 2, 3, 4, 5), 1)])
    with pytest.raises(ValueError, match="image_shapes"):
        make_engine(image_shapes=((1, 4),)).prepare(context(config, 12))


def logits_of(config, params, chunks, sequence):
    """float32 [T, V] of the whole record by the plain forward pass."""
    tokens = np.concatenate([chunk if isinstance(chunk, np.ndarray) else chunk.tokens for chunk in chunks])
    images = [image for chunk in chunks for image in getattr(chunk, "images", ())]
    inputs = pack_inputs(config, [(tokens, images)], SETTINGS.min_pixels, SETTINGS.max_pixels)
    np.testing.assert_array_equal(inputs.tokens_BT[0, : sequence.length], sequence.tokens[: sequence.length])
    return np.array(_forward(params, config, inputs)[0])


def test_the_random_stream_goes_on_over_calls_and_turns_as_an_independent_draw_says(config, params, make_engine):
    """Number i of a request is `uniform(fold_in(key(seed), i))`; the token is where the running sum passes it."""
    engine, sampling = make_engine(), replace(SAMPLING, top_p=0.9)
    seeds = [11, 2_000_000_000]
    firsts, seconds = ([context(config, seed + n, (12, 5), images=0) for n in range(2)] for seed in (20, 30))
    sequences = start(engine, firsts, seeds)
    read(engine, sequences)
    turns = [decode(engine, sequences, 10, sampling)]  # three calls, the last of two steps
    for sequence, chunk in zip(sequences, seconds, strict=True):
        sequence.append_context(engine.prepare(chunk))
    read(engine, sequences)
    turns.append(decode(engine, sequences, 6, sampling))

    for row, (sequence, seed) in enumerate(zip(sequences, seeds, strict=True)):
        chunks = [firsts[row], turns[0][row][0], seconds[row], turns[1][row][0]]
        logits_TV = logits_of(config, params, chunks, sequence).astype(np.float64) / sampling.temperature
        logits_TV[:, list(engine.device.forbidden)] = -np.inf
        first, second = len(firsts[row].tokens), sequence.length - 6
        places = [*range(first - 1, first + 9), *range(second - 1, second + 5)]
        for number, place in enumerate(places):
            p = np.exp(logits_TV[place] - logits_TV[place].max())
            p /= p.sum()
            order = np.argsort(-p)
            p[order[np.searchsorted(np.cumsum(p[order]), sampling.top_p) + 1 :]] = 0
            uniform = float(jax.random.uniform(jax.random.fold_in(jax.random.key(seed), number)))
            drawn = int(np.argmax(np.cumsum(p) > uniform * p.sum()))
            assert drawn == sequence.tokens[place + 1], f"row {row}, number {number}"


def test_what_lies_at_the_end_of_a_full_slot_is_what_was_read_and_sampled(config, params, make_engine):
    """An extend call of 32 and a decode call of 4 both reach past the end of the slot, beside a row that does not."""
    engine = make_engine()
    firsts = [context(config, 40, (90, 70), images=0), context(config, 41, (8, 3), images=0)]
    sequences = start(engine, firsts)
    read(engine, sequences)
    turns = [decode(engine, sequences, 5, GREEDY)]
    seconds = [context(config, 42, (12, 8), images=0), context(config, 43, (4, 8), images=0)]
    for sequence, chunk in zip(sequences, seconds, strict=True):
        sequence.append_context(engine.prepare(chunk))
    assert sequences[0].filled + SETTINGS.extend_tokens[-1] > SETTINGS.context
    read(engine, sequences)
    left = sequences[0].room
    assert left % SETTINGS.max_steps  # the last call is wider than what is left
    turns.append(decode(engine, sequences, left, GREEDY))
    assert sequences[0].room == 0
    for row, sequence in enumerate(sequences):
        chunks = [firsts[row], turns[0][row][0], seconds[row], turns[1][row][0]]
        logp_TV = np.asarray(jax.nn.log_softmax(logits_of(config, params, chunks, sequence)))
        tokens, _, full = turns[1][row]
        places = np.arange(sequence.length - left, sequence.length) - 1
        np.testing.assert_allclose(full, logp_TV[places, tokens], atol=2e-5)


def test_an_image_that_old_weights_encoded_is_encoded_anew_for_new_ones(config, params, make_engine):
    engine, chunk = make_engine(), context(config, 50, (6, 4), images=1)
    (before,) = start(engine, [chunk])
    read(engine, [before])
    vision = jax.tree.map(lambda x: x * 1.2, params["vision"])
    engine.set_weights(params | {"vision": vision}, None, 1)  # the decoder is the same: features alone may differ
    (after,) = start(engine, [chunk])
    read(engine, [after])
    ((tokens, _, full),) = decode(engine, [after], 4, GREEDY)
    assert engine.images.encoded == 2
    places = np.arange(after.length - 4, after.length) - 1
    logp_TV, old_TV = (
        np.asarray(jax.nn.log_softmax(logits_of(config, weights, [chunk, tokens], after)))
        for weights in (params | {"vision": vision}, params)
    )
    np.testing.assert_allclose(full, logp_TV[places, tokens], atol=2e-5)
    assert np.abs(full - old_TV[places, tokens]).max() > 1e-3
