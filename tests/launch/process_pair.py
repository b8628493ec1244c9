"""One of two processes of 4 forced devices each, run by `test_distributed.py`: steps on the global mesh.

Arguments: coordinator, process number, output file. With "alone" as coordinator: one process of 8 devices.
"""

import json
import sys

import jax
import numpy as np

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.launch.distributed import DistributedConfig, join
from hypereyes_jax.models.qwen3_vl import init_params
from hypereyes_jax.models.sharding import make_mesh
from hypereyes_jax.rl.feed import data_shards, global_batch, local_shards
from hypereyes_jax.rl.learner import make_learner
from hypereyes_jax.rl.pack import PackConfig, pack
from tests.rl.sharded_steps import MODELS, PLAIN, LearnerConfig
from tests.rl.small import samples

SAMPLES = 12


def main(coordinator: str, process: int, out: str) -> None:
    together = coordinator != "alone"
    join(DistributedConfig(together, coordinator, 2, process) if together else DistributedConfig())
    config = MODELS["moe"]
    mesh = make_mesh(MeshConfig("pair", "cpu", fsdp=2, expert=2, tensor=2))
    learner = make_learner(config, LearnerConfig(optimizer=PLAIN), mesh)
    first, count = local_shards(mesh)
    shards = data_shards(mesh)
    settings = PackConfig(
        row_tokens=(64,), rows=2 * count, micro_batches=4, vision=(6 * count, 144), shards=count,
        min_pixels=64, max_pixels=64 * 64,
    )  # fmt: skip
    share = SAMPLES // shards
    mine = samples(SAMPLES)[first * share : (first + count) * share]
    results = {}
    for kind in ("sft_step", "rl_step"):
        state = learner.init(jax.random.key(0), init_params(jax.random.key(0), config))
        where = learner.shardings(state)
        state = jax.tree.map(
            lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index, x=x: np.asarray(x)[index]), state, where
        )
        batch = global_batch(mesh, pack(config, mine, settings), settings)
        state, metrics = getattr(learner, kind)(state, batch)
        norms = jax.jit(lambda tree: jax.tree.map(lambda leaf: (leaf**2).sum(), tree))(state.opt_state[1].mu)
        results[kind] = {
            "metrics": {name: float(value) for name, value in metrics.items()},
            "moments": [float(x) for x in jax.tree.leaves(norms)],
        }
    with open(out, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
