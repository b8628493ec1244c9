"""One of two processes of 4 forced devices each, run by `test_distributed.py`: a checkpoint onto the global mesh.

Arguments: coordinator, process number, output file; the checkpoint lies beside the output. Writes the bytes that this
process read of the tensors, and what lies on its devices: {"name@device": values}.
"""

import sys
from pathlib import Path

import jax
import numpy as np

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.launch.initialize import join
from hypereyes_jax.models.qwen3_vl import checkpoint
from hypereyes_jax.models.sharding import make_mesh, param_shardings
from hypereyes_jax.models.tensor_files import StoredTensor

MESH = MeshConfig("pair", "cpu", fsdp=2, expert=2, tensor=2)


def main(coordinator: str, process: int, out: Path) -> None:
    join(DistributedConfig(True, coordinator, 2, process))
    read = 0
    rows = StoredTensor.rows

    def counted(self, first, last):
        nonlocal read
        tensor = rows(self, first, last)
        read += tensor.nbytes
        return tensor

    StoredTensor.rows = counted
    checkpoint._PIECE_BYTES = 2000  # small models have large tensors too
    path = out.parent / "checkpoint"
    _, params = checkpoint.load_hf(path, sharding=param_shardings(Qwen3VLConfig.from_hf(path), make_mesh(MESH)))
    found = {"read": np.asarray(read)}
    for name, leaf in jax.tree_util.tree_leaves_with_path(params):
        for shard in leaf.addressable_shards:
            found[f"{jax.tree_util.keystr(name)}@{shard.device.id}"] = np.asarray(shard.data)
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
