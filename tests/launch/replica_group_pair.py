"""One of two processes that share a rollout replica, run by `test_replica_group.py`; writes what was sampled.

Arguments: coordinator, process number, output file, model, and what befalls the worker ("", "dies", "raises").
With "alone" as coordinator: one process that has all devices.
"""

import asyncio
import dataclasses
import json
import os
import signal
import sys

import jax
import numpy as np
from PIL import Image

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.launch.initialize import join
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.packing import TrainingSample
from hypereyes_jax.models.sharding import make_mesh, param_shardings
from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout import Scheduler
from hypereyes_jax.rollout.replicas.layout import replica_groups
from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.sizes import MINIATURE_RL
from tests import small_models
from tests.launch.placed import placed
from tests.random_weights import random_params

DEVICES = 4
_TEXT = dataclasses.replace(small_models.TEXT, num_key_value_heads=4)
_MODELS = {
    "dense": _TEXT,  # heads are cut over both processes
    "moe": dataclasses.replace(  # heads are cut within a process, experts are shared out over both
        _TEXT, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
}
_TOWER = dataclasses.replace(small_models.VISION, num_heads=4)
_ENGINE = EngineConfig(
    slots=2, context=96, max_steps=4, decode_rows=(2,), extend_rows=(2,), extend_tokens=(32,), view_lengths=(96,),
    image_shapes=((2, 64),), visual_tokens=32, min_pixels=1024, max_pixels=4096,
    draft_tokens=2,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SmallSizes(type(MINIATURE_RL)):
    """Engines of the test's sizes."""

    def engine(self) -> EngineConfig:
        return _ENGINE


def model(name: str) -> Qwen3VLConfig:
    return Qwen3VLConfig(
        _MODELS[name], _TOWER, image_token_id=1, video_token_id=2, vision_start_token_id=3, vision_end_token_id=4
    )


def read(rng: np.random.Generator, words: int, size: tuple[int, int]) -> ContextChunk:
    image = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    ids = [*rng.integers(5, 128, words), 3, 1, 4, *rng.integers(5, 128, 2)]
    return ContextChunk(np.array(ids, np.int32), (image,))


async def play(rollouts: RolloutEngines, count: int = 5) -> tuple[list[SampledChunk], dict[str, int]]:
    """Rollouts of two turns at more sessions than there are slots: those that wait for an observation are evicted."""
    (engine,) = rollouts.engines.all

    async def one(session, seed: int) -> list[SampledChunk]:
        rng, sampled = np.random.default_rng(seed), []
        for words, size in ((5 + seed, (32, 48)), (3, (32, 32))):
            turn = await session.turn(read(rng, words, size))
            sampled.append(turn.sampled)
            await asyncio.sleep(0.05)
        await session.close()
        return sampled

    async with Scheduler(engine) as scheduler:
        seeds = [0, *range(count)]  # the second shares the first one's prompts
        sessions = [await scheduler.open(number, SamplingConfig(max_new_tokens=6), ()) for number in range(count + 1)]
        out = await asyncio.gather(*(one(session, seed) for seed, session in zip(seeds, sessions, strict=True)))
    counts = {"restored": scheduler.counts.restored, "shared": engine.counts.shared_tokens}
    return [chunk for chunks in out for chunk in chunks], counts


def befall(rollouts: RolloutEngines, fate: str) -> None:
    """What happens to a worker at its third decode call."""
    if rollouts._driver is None or not fate:
        return
    device, calls = rollouts._driver[0], iter(range(100))
    decode = device.decode

    def third(*arguments):
        if next(calls) == 2:
            if fate == "raises":
                raise MemoryError("the device has no room")
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(*arguments)

    device.decode = third


def check_copies(copies: ReplicaWeights, placed, params) -> None:
    """Bit-equal on every device of this process, and the bytes counted value by value."""
    (made,) = copies(placed)
    received = 0
    for copy, before, whole in zip(*map(jax.tree.leaves, (made, placed, params)), strict=True):
        held = {shard.device: shard.index for shard in before.addressable_shards}
        assert len(copy.sharding.device_set) == DEVICES
        for shard in copy.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), np.asarray(whole)[shard.index])
            missing = np.zeros(whole.shape, bool)
            missing[shard.index] = True
            missing[held[shard.device]] = False
            received += 4 * int(missing.sum())
    assert copies.received_bytes(placed) == received > 0


async def main(coordinator: str, process: int, name: str, fate: str) -> dict[str, list]:
    together = coordinator != "alone"
    # a busy machine may stop a process for minutes
    join(DistributedConfig(True, coordinator, 2, process, heartbeat_timeout=600) if together else DistributedConfig())
    config = model(name)
    mesh = make_mesh(MeshConfig("learner", "cpu", fsdp=DEVICES))
    where = param_shardings(config, mesh)
    params = [random_params(config, seed) for seed in range(2)]

    learned = [placed(each, where) for each in params]
    copies = ReplicaWeights(config, mesh, "float32", DEVICES)
    processes = Processes(jax.process_index(), jax.process_count(), mesh).sharing_replicas(replica_groups(copies.grid))
    assert processes.replicas.drivers == [0]
    check_copies(copies, learned[0], params[0])
    sizes = SmallSizes(**{f.name: getattr(MINIATURE_RL, f.name) for f in dataclasses.fields(MINIATURE_RL)})
    found: dict[str, list] = {"tokens": [], "logp": []}
    with RolloutEngines.on_mesh(config, learned[0], None, sizes, copies, processes, at_once=8) as rollouts:
        befall(rollouts, fate)
        for version, weights in enumerate(learned):
            if version:
                rollouts.publish(weights, version)
            if processes.replicas.drives:
                chunks, counts = await play(rollouts)
                assert counts["restored"] > 0, "nothing was evicted and came back"
                assert counts["shared"] > 0, "no prompt was shared"
                found["tokens"] += [chunk.tokens.tolist() for chunk in chunks]
                found["logp"] += [chunk.logp_full.tolist() for chunk in chunks]
                samples = [TrainingSample((read(np.random.default_rng(7), 3, (32, 32)), chunk)) for chunk in chunks]
            else:
                samples = []
            await rollouts.finish_plays()
            rollouts.suspend()
            own = await rollouts.scatter(samples)
            sizes = processes.gather([[chunk.tokens.tolist() for chunk in sample.chunks] for sample in own])
            if processes.replicas.drives:
                everyone = sorted(tokens for part in sizes for tokens in part)
                assert everyone == sorted([c.tokens.tolist() for c in sample.chunks] for sample in samples)
                assert max(map(len, sizes)) - min(map(len, sizes)) <= 1
    return found


if __name__ == "__main__":
    coordinator, number, out, *words = sys.argv[1:]
    sampled = asyncio.run(main(coordinator, int(number), *words))
    with open(out, "w") as file:
        json.dump(sampled, file)
