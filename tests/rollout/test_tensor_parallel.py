"""Replicas of two devices each, and of four that share out experts, against one device.

Runs apart: the number of devices is fixed when jax starts.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import asyncio, contextlib, dataclasses, sys
import jax, numpy as np
from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.sharding import make_mesh, param_shardings
from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout import Engine, EngineConfig, SamplingConfig, Scheduler
from hypereyes_jax.rollout.replicas.placement import Replicas
from PIL import Image
from tests import small_models
from tests.random_weights import random_params

text, vision = small_models.TEXT, small_models.VISION
if sys.argv[2] == "moe":
    text = dataclasses.replace(text, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
config = Qwen3VLConfig(text, vision, image_token_id=1, video_token_id=2, vision_start_token_id=3, vision_end_token_id=4)
params = random_params(config)
settings = EngineConfig(slots=2, context=64, max_steps=8, decode_rows=(2,), extend_rows=(2,), extend_tokens=(32,),
                        view_lengths=(64,), image_shapes=((2, 64),), visual_tokens=32, min_pixels=1024, max_pixels=4096)

def prompt(seed):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (32, 48, 3), dtype=np.uint8))
    ids = [*rng.integers(5, 128, 6 + seed), 3, 1, 4, *rng.integers(5, 128, 4)]
    return ContextChunk(np.array(ids, np.int32), (image,))

async def play(generator):
    async def one(seed):
        session = await generator.open(seed, SamplingConfig(max_new_tokens=12), ())
        turn = await session.turn(prompt(seed))
        await session.close()
        return turn.sampled
    return await asyncio.gather(*(one(seed) for seed in range(8)))

async def main():
    assert len(jax.devices()) == 8
    async with Scheduler(Engine(config, params, settings)) as single:
        expected = await play(single)
    engines = []
    experts = 2 if sys.argv[2] == "moe" else 1
    of = MeshConfig("replica", "cpu", expert=experts, tensor=2, sampler=True)
    for n in range(int(sys.argv[1])):
        mesh = make_mesh(of, jax.devices()[of.size * n : of.size * (n + 1)])
        engines.append(Engine(config, jax.device_put(params, param_shardings(config, mesh)), settings, mesh=mesh))
    async with contextlib.AsyncExitStack() as stack:
        out = await play(Replicas([await stack.enter_async_context(Scheduler(engine)) for engine in engines]))
    for x, y in zip(expected, out, strict=True):
        np.testing.assert_array_equal(x.tokens, y.tokens)
        np.testing.assert_allclose(x.logp_full, y.logp_full, atol=1e-4)
    for engine in engines:
        assert engine.counts.decode_tokens == 8 * 12 // len(engines)
        assert len(engine.device.store.k.addressable_shards) == of.size
        assert engine.device.store.k.addressable_shards[0].data.shape[0] == 1
    print("same tokens")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("replicas", "model"),
    [(1, "dense"), pytest.param(4, "dense", marks=pytest.mark.slow), pytest.param(1, "moe", marks=pytest.mark.slow)],
)
def test_tensor_parallel_replicas_give_the_tokens_of_one_device(replicas, model):
    environment = dict(
        os.environ, XLA_FLAGS=os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu"
    )
    command = [sys.executable, "-c", _PROGRAM, str(replicas), model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "same tokens" in done.stdout
