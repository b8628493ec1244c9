"""A replica whose devices share out slots and rows as they share out experts, against one device.

Runs apart: the number of devices is fixed when jax starts.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import dataclasses, sys
import jax, numpy as np
from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.qwen3_vl import init_params
from hypereyes_jax.models.sharding import make_mesh, param_shardings
from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout import Engine, EngineConfig, SamplingConfig
from hypereyes_jax.rollout.engine import DecodeRequest
from tests import small_models

text = dataclasses.replace(small_models.TEXT, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
config = Qwen3VLConfig(text, small_models.VISION, image_token_id=1, video_token_id=2, vision_start_token_id=3,
                       vision_end_token_id=4)
params = init_params(jax.random.key(0), config)
settings = EngineConfig(slots=8, context=64, kv=sys.argv[1], weights=sys.argv[2], max_steps=8, decode_rows=(8,),
                        extend_rows=(4,), extend_tokens=(32,), view_lengths=(64,), image_shapes=((2, 64),),
                        visual_tokens=32, min_pixels=1024, max_pixels=4096,
                        draft_tokens=int(sys.argv[3]))

def held(engine, sequence):
    cached, parts = engine.cached(sequence), engine.device.layout.parts

    def positions(leaf):
        pages = np.asarray(leaf)[:, :, [cached.part * (leaf.shape[2] // parts) + page for page in cached.pages]]
        return pages.reshape(*pages.shape[:2], -1, pages.shape[-1])[:, :, :cached.positions]

    return jax.tree.leaves(jax.tree.map(positions, engine.device.store))

def play(mesh, company):
    placed = params if mesh is None else jax.device_put(params, param_shardings(config, mesh))
    engine = Engine(config, placed, settings, mesh=mesh)
    rng, sequences = np.random.default_rng(0), []
    for seed in range(6):
        tokens = rng.integers(5, 128, 7 + seed).astype(np.int32)
        sequence = engine.new_sequence(seed)
        sequence.append_context(engine.prepare(ContextChunk(tokens)))
        assert engine.acquire(sequence)
        sequences.append(sequence)
    while any(sequence.unread for sequence in sequences):
        engine.extend([sequence for sequence in sequences if sequence.unread])
    # the same prompt in another part's slot: its cache is copied between devices, bit for bit
    source, other = sequences[0], engine.new_sequence(9)
    other.append_context(engine.prepare(ContextChunk(source.tokens[: source.length].copy())))
    assert engine.acquire(other)
    engine.share(source, [other], other.length - 1)
    layout = engine.device.layout
    assert mesh is None or layout.part(source.slot) != layout.part(other.slot)
    for a, b in zip(held(engine, source), held(engine, other), strict=True):
        np.testing.assert_array_equal(a, b)
    # evicted, and back in a slot of another part
    moved = sequences[1]
    before, was = held(engine, moved), moved.slot
    saved = engine.save(engine.cached(moved))
    engine.release(moved)
    assert engine.acquire(moved, part=0 if mesh is None else 3)
    engine.restore(moved, saved)
    assert mesh is None or layout.part(was) != layout.part(moved.slot)
    for a, b in zip(before, held(engine, moved), strict=True):
        np.testing.assert_array_equal(a, b)
    players = [*sequences, other][:company]
    return engine, engine.decode([DecodeRequest(each, SamplingConfig(), (), 8) for each in players])

assert len(jax.devices()) == 8
_, single = play(None, 7)
shared = make_mesh(MeshConfig("replica", "cpu", expert=4, tensor=2, sampler=True))
engine, together = play(shared, 7)
# each device holds its part's pages (a page is a slot here; two, and one for checks) of its own KV head
shapes = {(shard.data.shape[0], shard.data.shape[2]) for shard in engine.device.store.k.addressable_shards}
assert shapes == {(1, 3)}, shapes
pieces = {str((shard.index[0], shard.index[2])) for shard in engine.device.store.k.addressable_shards}
assert len(pieces) == 8, pieces  # nothing is held twice
for x, y in zip(single, together, strict=True):
    np.testing.assert_array_equal(x.tokens, y.tokens)
    np.testing.assert_allclose(x.logp_full, y.logp_full, atol=1e-4)
_, alone = play(shared, 3)
for x, y in zip(together[:3], alone, strict=True):  # company changes no bit
    np.testing.assert_array_equal(x.tokens, y.tokens)
    np.testing.assert_array_equal(x.logp_full, y.logp_full)
print("same tokens")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kv", "weights", "draft_tokens"),
    [("float32", "given", 0), ("int8", "given", 0), ("float32", "int8", 0), ("float32", "given", 3)],
)
def test_slots_shared_out_over_experts_give_the_tokens_of_one_device(kv, weights, draft_tokens):
    environment = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    command = [sys.executable, "-c", _PROGRAM, kv, weights, str(draft_tokens)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "same tokens" in done.stdout
