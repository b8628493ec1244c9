"""One of two processes of 4 forced devices each, run by `test_distributed.py`: 2 + 2 train, 2 + 2 sample.

Arguments: coordinator, process number, output file. Writes the weights that this process's samplers hold, by name, and
the bytes that a copy says they received.
"""

import sys

import jax
import numpy as np

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.models.sharding import param_shardings
from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
from tests.launch.placed import placed
from tests.learner.sharded_steps import MODELS
from tests.random_weights import random_params

SPLIT = "learner=fsdp=2,expert=2,sampler=4"


def main(coordinator: str, process: int, out: str) -> None:
    processes = Processes.start(DistributedConfig(True, coordinator, 2, process), SPLIT)
    assert (processes.index, processes.count, processes.shards) == (process, 2, 2)
    own = jax.local_devices()
    assert [d.id for d in processes.mesh.devices.flat if d.process_index == process] == [d.id for d in own[:2]]
    config = MODELS["moe"]
    params = placed(random_params(config), param_shardings(config, processes.mesh))
    copies = ReplicaWeights(config, processes.mesh, np.float32, 2, processes.samplers)
    assert processes.gather({"from": process}) == [{"from": 0}, {"from": 1}]
    (replica,) = copies(params)
    found = {"received": np.asarray(copies.received_bytes(params))}
    for name, leaf in jax.tree_util.tree_leaves_with_path(replica):
        assert {shard.device for shard in leaf.addressable_shards} == set(own[2:])
        found[jax.tree_util.keystr(name)] = np.asarray(leaf)
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
