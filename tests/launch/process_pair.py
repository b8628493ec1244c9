"""One of two processes of 4 forced devices each, run by `test_distributed.py`: steps on the global mesh.

Arguments: coordinator, process number, output file (.npz: metrics, weights and moments, whole). With "alone" as
coordinator: one process of 8 devices, which joins what each of the two packs. (Packing all samples itself, it would
fill other micro-batches, and the router's balance is one of each micro-batch.)
"""

import sys

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.launch.initialize import join
from hypereyes_jax.learner.global_batch import data_shards, global_batch, local_shards
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import PackedBatch, pack
from hypereyes_jax.models.sharding import make_mesh
from tests.launch.placed import placed
from tests.learner.sharded_steps import MODELS, PLAIN, LearnerConfig
from tests.learner.small import samples
from tests.random_weights import random_params

SAMPLES = 12


def settings(shards: int) -> PackConfig:
    return PackConfig(
        row_lengths=(64,), rows=2 * shards, micro_batches=4, vision=(6 * shards, 144), shards=shards,
        min_pixels=64, max_pixels=64 * 64,
    )  # fmt: skip


def packed(config: Qwen3VLConfig, process: int, shards: int) -> PackedBatch:
    half = SAMPLES // 2
    return pack(config, samples(SAMPLES)[process * half : (process + 1) * half], settings(shards))


def joined(halves: list[PackedBatch], shards: int) -> PackedBatch:
    """Both processes' batches side by side: rows after rows, visual tokens after visual tokens."""
    first, second = halves
    tokens = first.inputs.vision.token_place_M.shape[1]
    visual = second.inputs.visual_index_BT
    vision = second.inputs.vision._replace(token_place_M=second.inputs.vision.token_place_M + tokens)
    inputs = second.inputs._replace(visual_index_BT=np.where(visual >= 0, visual + tokens, -1), vision=vision)
    second = second.replace(inputs=inputs)
    rows = jax.tree.map(
        lambda *leaves: np.concatenate(leaves, axis=1),
        *(half.replace(count=None, left_out=None) for half in (first, second)),
    )
    positions = np.concatenate([b.inputs.positions_3BT for b in halves], axis=2)
    return rows.replace(
        inputs=rows.inputs._replace(positions_3BT=positions),
        count=max(first.count, second.count),
        left_out=first.left_out + second.left_out,
    )


def main(coordinator: str, process: int, out: str) -> None:
    together = coordinator != "alone"
    join(DistributedConfig(together, coordinator, 2, process) if together else DistributedConfig())
    config = MODELS["moe"]
    mesh = make_mesh(MeshConfig("pair", "cpu", fsdp=2, expert=2, tensor=2))
    learner = make_learner(config, LearnerConfig(optimizer=PLAIN), mesh)
    shards = data_shards(mesh)
    if together:
        first, count = local_shards(mesh)
        assert (first, count) == (process * shards // 2, shards // 2)
        batch = global_batch(mesh, packed(config, process, shards // 2), settings(shards // 2))
    else:
        batch = joined([packed(config, half, shards // 2) for half in range(2)], shards // 2)
    results = {}
    for kind in ("sft_step", "rl_step"):
        state = learner.init(jax.random.key(0), random_params(config))
        where = learner.shardings(state)
        state = placed(state, where)
        state, metrics = getattr(learner, kind)(state, batch)
        adam = state.opt_state[1]
        trees = {"weights": state.trainable, "first": adam.mu, "second": adam.nu}
        for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
            whole = leaf if leaf.is_fully_addressable else process_allgather(leaf, tiled=True)
            results[kind + jax.tree_util.keystr(path)] = np.asarray(whole)
        results |= {f"{kind}['metrics']['{name}']": np.asarray(value) for name, value in metrics.items()}
    np.savez(out, **results)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
