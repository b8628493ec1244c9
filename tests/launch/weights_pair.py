"""Two processes of 4 forced devices each, run by `test_distributed.py`: where weights come to lie on their devices.

Arguments: coordinator, folder of the output, in which lies a checkpoint. The second process is a fork of the first, so
that imports are made once. Process N writes two files of arrays:
  - split.N.npz, of 2 + 2 devices that train and 2 + 2 that sample: the weights that this process's samplers hold, by
    name, and the bytes that a copy says they "received";
  - loaded.N.npz, of a checkpoint onto a mesh of all devices: what lies on this process's, {"name@device": values}, and
    the bytes that it "read" of the tensors.
"""

import os
import sys
from pathlib import Path

import jax
import numpy as np

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.models.qwen3_vl import checkpoint
from hypereyes_jax.models.sharding import make_mesh, param_shardings
from hypereyes_jax.models.tensor_files import StoredTensor
from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
from tests.launch.placed import placed
from tests.learner.sharded_steps import MODELS
from tests.random_weights import random_params

SPLIT = "learner=fsdp=2,expert=2,sampler=4"
MESH = MeshConfig("pair", "cpu", fsdp=2, expert=2, tensor=2)


def split(processes):
    own = jax.local_devices()
    assert [d.id for d in processes.mesh.devices.flat if d.process_index == processes.index] == [d.id for d in own[:2]]
    config = MODELS["moe"]
    params = placed(random_params(config), param_shardings(config, processes.mesh))
    copies = ReplicaWeights(config, processes.mesh, np.float32, 2, processes.samplers)
    assert processes.gather({"from": processes.index}) == [{"from": 0}, {"from": 1}]
    (replica,) = copies(params)
    found = {"received": np.asarray(copies.received_bytes(params))}
    for name, leaf in jax.tree_util.tree_leaves_with_path(replica):
        assert {shard.device for shard in leaf.addressable_shards} == set(own[2:])
        found[jax.tree_util.keystr(name)] = np.asarray(leaf)
    return found


def loaded(path):
    read = 0
    rows = StoredTensor.rows

    def counted(self, first, last):
        nonlocal read
        tensor = rows(self, first, last)
        read += tensor.nbytes
        return tensor

    StoredTensor.rows = counted
    checkpoint._PIECE_BYTES = 2000  # small models have large tensors too
    _, params = checkpoint.load_hf(path, sharding=param_shardings(Qwen3VLConfig.from_hf(path), make_mesh(MESH)))
    found = {"read": np.asarray(read)}
    for name, leaf in jax.tree_util.tree_leaves_with_path(params):
        for shard in leaf.addressable_shards:
            found[f"{jax.tree_util.keystr(name)}@{shard.device.id}"] = np.asarray(shard.data)
    return found


def main(coordinator, out):
    child = os.fork()  # before anything asks jax for devices
    number = 0 if child else 1
    processes = Processes.start(DistributedConfig(True, coordinator, 2, number), SPLIT)
    assert (processes.index, processes.count, processes.shards) == (number, 2, 2)
    np.savez(out / f"split.{number}.npz", **split(processes))
    np.savez(out / f"loaded.{number}.npz", **loaded(out / "checkpoint"))
    jax.distributed.shutdown()  # each waits for the other
    if child:
        _, status = os.waitpid(child, 0)
        assert status == 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
