"""Copies of the learner's weights on replicas' devices. Runs apart: the number of devices is fixed when jax starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import sys
import jax, numpy as np
from hypereyes_jax.configs.mesh import MESHES, MeshConfig
from hypereyes_jax.models.lora import LoraConfig, LoraRule
from hypereyes_jax.models.partition import ShardingError
from hypereyes_jax.models.sharding import lora_shardings, make_mesh, param_shardings
from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
from tests.learner.sharded_steps import MODELS
from tests.random_weights import random_lora, random_params

config, devices = MODELS[sys.argv[1]], jax.devices()
params = random_params(config)
another = [devices[i] for i in (0, 2, 1, 3, 6, 7, 4, 5)]
for order, sizes in ((devices, (0,)), (another, (1, 2, 4) if config.text.moe else (1, 2))):
    mesh = make_mesh(MESHES["cpu_8"], order)
    placed = jax.device_put(params, param_shardings(config, mesh))
    for size in sizes:
        copies = ReplicaWeights(config, mesh, "bfloat16", size)
        size = size or config.text.num_key_value_heads
        made = copies(placed)
        assert len(made) == len(copies.meshes) == 8 // size
        for number, replica in enumerate(made):
            own = set(devices[number * size : (number + 1) * size])
            for found, wanted in zip(jax.tree.leaves(replica), jax.tree.leaves(params), strict=True):
                assert found.sharding.device_set == own
                np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted.astype("bfloat16")))
        if size == 1:  # each device needs what it does not hold of the whole
            held = sum(shard.data.size for leaf in jax.tree.leaves(placed) for shard in leaf.addressable_shards)
            whole = sum(leaf.size for leaf in jax.tree.leaves(params))
            assert copies.received_bytes(placed) == 2 * (8 * whole - held)

# Adapters go where the weights that they adapt lie; weights that lie in their places already are not copied.
lora = random_lora(config, LoraConfig((LoraRule("layers/.*", 2, 4.0),)))
copies = ReplicaWeights(config, mesh, "float32", 2)
on_mesh = jax.device_put(lora, lora_shardings(config, lora, mesh))
for replica in copies.adapters(on_mesh):
    for found, wanted in zip(jax.tree.leaves(replica), jax.tree.leaves(lora), strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))
assert 0 < copies.received_bytes(on_mesh) < copies.received_bytes(placed) / 5
assert not copies.shares(placed)
one = make_mesh(MeshConfig("one", "cpu"), devices[:1])
alone = jax.device_put(params, param_shardings(config, one))
assert ReplicaWeights(config, one, "float32").shares(alone)
assert not ReplicaWeights(config, one, "bfloat16").shares(alone)
where = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(alone)]
(held,) = ReplicaWeights(config, one, "float32")(alone)
assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(held)] == where

refused = {3: "3 devices does not divide a process's 8"}
if not config.text.moe:
    refused[4] = "4 devices would hold some weights twice"
for size, message in refused.items():
    try:
        ReplicaWeights(config, mesh, "float32", size)
        raise AssertionError("not refused")
    except ShardingError as error:
        assert message in str(error), error
print("alike")
"""


@pytest.mark.parametrize("model", ["dense", pytest.param("moe", marks=pytest.mark.slow)])
def test_every_replica_gets_the_learners_weights_on_its_own_devices(model):
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, model],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "alike\n"
