"""The experts that an engine records, against those of the whole-batch pass, whatever way a cache came about."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.models.qwen3_vl import Kernels, encode_images
from hypereyes_jax.models.qwen3_vl.attention import segment_attention_for
from hypereyes_jax.models.qwen3_vl.moe import Routing
from hypereyes_jax.models.qwen3_vl.text import DecoderInputs, ForwardOptions, decode_layers, embed_tokens
from hypereyes_jax.processing import pack_inputs
from hypereyes_jax.rollout import Engine
from hypereyes_jax.rollout.routes import RouteRecord
from tests.random_weights import random_params
from tests.rollout.paced import SETTINGS
from tests.rollout.test_engine import context, decode, read, start


@pytest.fixture(scope="module")
def mixture(config):
    text = replace(config.text, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    config = replace(config, text=text)
    return config, random_params(config, 1)


def experts_of(config, params, tokens, images):
    """uint8 [tokens, layers, 2], of one pass over a whole trajectory."""
    inputs = pack_inputs(config, [(tokens, images)], SETTINGS.min_pixels, SETTINGS.max_pixels)
    kernels, segment = Kernels(), jnp.asarray(inputs.segment_BT)
    attend = segment_attention_for(kernels)

    def whole(params):
        visual = encode_images(params, config, inputs.vision, kernels=kernels) if images else None
        index = jnp.asarray(inputs.visual_index_BT)
        x = embed_tokens(params, jnp.asarray(inputs.tokens_BT), index, visual)
        decoder_inputs = DecoderInputs(x, jnp.asarray(inputs.positions_3BT), index, visual, segment > 0)
        options = ForwardOptions(kernels, routing=Routing(record=True))

        def within(q, k, v, _):
            return attend(q, k, v, segment, causal=True), None

        return decode_layers(params, config, decoder_inputs, within, None, options)[2].experts

    return np.asarray(jax.jit(whole)(params))[:, 0].swapaxes(0, 1)


@pytest.mark.slow
def test_recorded_experts_are_those_of_the_whole_pass_also_behind_shared_adopted_and_reread_caches(mixture):
    config, params = mixture
    engine = Engine(config, params, replace(SETTINGS.exact(), record_routes=True))  # one shape a program
    chunk, second = context(config, 7, (20, 20), images=1), context(config, 8, (4,), images=0)
    reader, sharer = start(engine, [chunk, chunk], [5, 6])
    read(engine, [reader])
    engine.share(reader, [sharer], reader.filled)
    first_turns = decode(engine, [reader, sharer], 6)
    for sequence in (reader, sharer):
        sequence.append_context(engine.prepare(second))
    engine.release(sharer)  # evicted, and read again from its record
    engine.acquire(sharer)
    read(engine, [reader, sharer])
    second_turns = decode(engine, [reader, sharer], 4)

    prompt = reader.length - 10 - len(second.tokens) - 1
    kept = engine.keep(reader, prompt)
    engine.release(reader)
    heir = engine.new_sequence(9)
    heir.append_context(engine.prepare(chunk))
    engine.acquire(heir)
    engine.adopt(heir, kept, prompt)
    (own,) = decode(engine, [heir], 3)

    records = [
        (reader, [chunk.tokens, first_turns[0][0], second.tokens, second_turns[0][0]]),
        (sharer, [chunk.tokens, first_turns[1][0], second.tokens, second_turns[1][0]]),
        (heir, [chunk.tokens, own[0]]),
    ]
    for sequence, parts in records:
        wanted = experts_of(config, params, np.concatenate(parts), list(chunk.images))[: sequence.length - 1]
        np.testing.assert_array_equal(sequence.routes.array(), wanted)


def test_tokens_that_are_sampled_anew_have_new_routes(mixture):
    config, params = mixture
    engine = Engine(config, params, replace(SETTINGS, record_routes=True))
    (sequence,) = start(engine, [context(config, 3, (6,), images=0)])
    read(engine, [sequence])
    decode(engine, [sequence], 4)
    sequence.drop_sampled(4)
    assert sequence.routes.length == sequence.length - 1


def test_a_dense_model_has_no_routes_to_record(make_engine):
    with pytest.raises(ValueError, match="the model has 0"):
        make_engine(record_routes=True)


def test_a_record_keeps_what_it_knows_and_has_no_gaps():
    record = RouteRecord()
    assert record.array() is None
    record.note(0, np.full((3, 1, 1), 1, np.uint8))
    record.note(1, np.full((4, 1, 1), 2, np.uint8))  # two of them are known
    assert record.array()[:, 0, 0].tolist() == [1, 1, 1, 2, 2]
    assert record.beginning(4).array()[:, 0, 0].tolist() == [1, 1, 1, 2]
    assert record.beginning(9).length == 5
    with pytest.raises(ValueError, match="gap"):
        record.note(6, np.zeros((1, 1, 1), np.uint8))
