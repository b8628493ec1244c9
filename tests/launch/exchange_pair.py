"""One of two processes of 2 forced devices each, run by `test_exchange.py`: a step whose samples lie unevenly.

Arguments: coordinator, process number, output file (.npz): the positions that a step computes, and the figures and
weights after it, where each process packs its own samples ("stayed") and where they are exchanged ("moved").
"""

import sys

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.launch.exchange import open_exchange
from hypereyes_jax.launch.global_arrays import pack_for_all
from hypereyes_jax.launch.initialize import join
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.models.sharding import make_mesh
from tests.launch.placed import placed
from tests.learner.sharded_steps import PLAIN, LearnerConfig
from tests.learner.small import CONFIG, samples
from tests.random_weights import random_params

PACK = PackConfig(row_lengths=(64,), rows=2, shards=2, min_pixels=64, max_pixels=64 * 64)


def main(coordinator: str, process: int, out: str) -> None:
    join(DistributedConfig(True, coordinator, 2, process, heartbeat_timeout=600))
    mesh = make_mesh(MeshConfig("pair", "cpu", fsdp=4))
    processes = Processes(jax.process_index(), jax.process_count(), mesh)
    learner = make_learner(CONFIG, LearnerConfig(optimizer=PLAIN), mesh)
    everyone = samples(8)
    own = everyone[:6] if process == 0 else everyone[6:]
    results = {"positions": np.zeros(2, int)}
    for number, name in enumerate(("stayed", "moved")):
        with open_exchange(processes, name == "moved") as exchange:
            batch = pack_for_all(processes, CONFIG, own, PACK, exchange=exchange)
        results["positions"][number] = batch.positions
        state = learner.init(jax.random.key(0), random_params(CONFIG))
        where = learner.shardings(state)
        state = placed(state, where)
        state, metrics = learner.rl_step(state, batch)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.trainable):
            whole = leaf if leaf.is_fully_addressable else process_allgather(leaf, tiled=True)
            results[name + jax.tree_util.keystr(path)] = np.asarray(whole)
        results |= {f"{name}['metrics']['{metric}']": np.asarray(value) for metric, value in metrics.items()}
    np.savez(out, **results)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
