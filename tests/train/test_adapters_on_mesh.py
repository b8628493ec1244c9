"""Adapters on replicas' devices: the base stays there, adapters alone are sent, and the engines sample with both.

Runs apart: the number of devices is fixed when jax starts.
"""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.models.lora import init_lora
from hypereyes_jax.models.qwen3_vl import init_params
from hypereyes_jax.models.sharding import lora_shardings, make_mesh, param_shardings
from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
from hypereyes_jax.rollout.servers.weight_check import EchoError, echo_check
from hypereyes_jax.train.adapters import adapter_rules, fresh_adapters
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.sizes import MINIATURE_RL
from tests import small_models

config = Qwen3VLConfig(
    small_models.TEXT, small_models.VISION, image_token_id=1, video_token_id=2, vision_start_token_id=3,
    vision_end_token_id=4,
)
devices = int(jax.device_count())
mesh = make_mesh(MeshConfig("all", "cpu", fsdp=devices))
params = init_params(jax.random.key(0), config)
placed = jax.device_put(jax.tree.map(jnp.copy, params), param_shardings(config, mesh))
processes = Processes(0, 1, mesh)
fresh = fresh_adapters(config, placed, adapter_rules(2, 8.0), processes)
sizes = dataclasses.replace(MINIATURE_RL, slots=2, context=64, view_lengths=(64,), extend_rows=(2,))
copies = ReplicaWeights(config, mesh, "float32", min(2, devices))
rollouts = RolloutEngines.on_mesh(config, placed, None, sizes, copies, processes, 4, fresh)
assert rollouts._keeps_base == (devices > 1)

def trained(seed):
    moved = jax.tree.map(lambda x: 0.2 * jax.random.normal(jax.random.key(seed + x.size), x.shape), fresh)
    return jax.device_put(moved, lora_shardings(config, fresh, mesh))

def places(engine):
    return [s.data.unsafe_buffer_pointer() for x in jax.tree.leaves(engine.params) for s in x.addressable_shards]

probe = np.arange(5, 17, dtype=np.int32)
engines = rollouts.engines.all
assert len(engines) == max(1, devices // 2)
before = [places(engine) for engine in engines]
take = jax.jit(lambda state: state, donate_argnums=0)  # a training step takes the state's buffers, the base's too
for version in (1, 2):
    lora = trained(version)
    rollouts.suspend()
    placed = take(placed)
    assert all((engine.params is None) == (devices == 1) for engine in engines)
    sent = rollouts.publish(placed, version, lora)["sync_gib"] * 2**30
    # no more than whole adapters for every device
    assert sent <= 4 * devices * sum(x.size for x in jax.tree.leaves(lora))
    assert (sent > 0) == (devices > 1)
    whole = jax.device_put(lora, jax.devices()[0])
    for engine in engines:
        assert engine.version == version
        assert echo_check(engine, params, whole, probe) < 1e-4
        try:
            echo_check(engine, params, None, probe)  # the base alone
            raise AssertionError("the adapters change nothing")
        except EchoError:
            pass
assert [places(engine) for engine in engines] == before  # the base was neither copied nor sent again
print("alike")
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_engines_keep_the_base_and_take_each_version_of_the_adapters(devices):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "alike\n"
