"""Steps of several processes: each packs its own samples, and together their batches are one step on the mesh."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.learner.packing import PackedBatch
from hypereyes_jax.learner.step_batch import StepBatch, measures
from hypereyes_jax.models.partition import DATA


def data_shards(mesh: Mesh) -> int:
    """How many parts a global batch is cut into: `PackConfig.shards` of a single process."""
    return int(np.prod([mesh.shape[axis] for axis in DATA]))


def shards_by_process(mesh: Mesh) -> dict[tuple[int, int], list[int]]:
    """The data shards that each process feeds, by (slice, process).

    Raises ValueError if a data shard's tensor-parallel devices lie in several processes, or a process's shards are not
    next to each other: then no process could feed them alone.
    """
    fed: dict[tuple[int, int], list[int]] = {}
    for index, devices in enumerate(mesh.devices.reshape(data_shards(mesh), -1)):
        # Compile-only devices of several slices count their processes anew in each.
        owners = {(getattr(device, "slice_index", None) or 0, device.process_index) for device in devices}
        fed.setdefault(min(owners), []).append(index)
        if len(owners) > 1 or fed[min(owners)] != list(range(fed[min(owners)][0], index + 1)):
            raise ValueError(
                "each process must hold whole, consecutive data shards: keep the mesh's tensor axis within a host "
                f"(mesh {dict(mesh.shape)})"
            )
    return fed


def local_shards(mesh: Mesh) -> tuple[int, int]:
    """(first, number) of the data shards that this process feeds. Raises as `shards_by_process`."""
    (mine,) = (shards for (_, process), shards in shards_by_process(mesh).items() if process == jax.process_index())
    return mine[0], len(mine)


def gather_from_processes(mesh: Mesh, own: np.ndarray) -> np.ndarray:
    """[processes, ...]: what each process gives, arrays of one shape and type, in the order of processes.

    Every process must call it. Only devices of the mesh take part, one a process: others may be at work meanwhile, and
    programs that span devices must not meet on them in different orders.
    """
    first: dict[int, Any] = {}
    for device in mesh.devices.flat:
        first.setdefault(device.process_index, device)
    line = Mesh(np.array([first[process] for process in sorted(first)]), ("process",))
    each, everywhere = (NamedSharding(line, PartitionSpec(*axes)) for axes in (("process",), ()))
    mine = jax.device_put(own[None], first[jax.process_index()])
    together = jax.make_array_from_single_device_arrays((len(first), *own.shape), each, [mine])
    return np.asarray(jax.jit(_same, out_shardings=everywhere)(together).addressable_data(0))


def _same(x: jax.Array) -> jax.Array:
    return x


def global_batch(mesh: Mesh, batch: PackedBatch, pack_config: PackConfig) -> StepBatch:
    """The step that the processes' batches are together; every process must call it, with the same `PackConfig`.

    `pack_config` is that of one process: `shards` = its number of local shards, `rows` = its rows of a micro-batch,
    `micro_batches`, `vision` and the row length fixed, so that all have the same shapes.

    Raises ValueError if a capacity is not fixed.
    """
    one_length = pack_config.row_length is not None or len(pack_config.row_lengths) == 1
    if pack_config.micro_batches is None or pack_config.vision is None or not one_length:
        raise ValueError("several processes need fixed shapes: set PackConfig.micro_batches, .vision and .row_length")
    first, count = local_shards(mesh)
    if pack_config.shards != count:
        raise ValueError(f"this process feeds {count} data shards, but PackConfig.shards is {pack_config.shards}")
    weight, *measured = measures(batch)
    own = np.array([int(batch.count), *measured, batch.targets_MBT.shape[1]], np.int32)
    used, tokens, samples, patches, rows = gather_from_processes(mesh, own).T.tolist()
    weights = gather_from_processes(mesh, np.array([weight], np.float32)).astype(np.float64)
    before = np.int32(first * batch.inputs.vision.token_place_M.shape[1] // count)
    visual = batch.inputs.visual_index_BT
    vision = batch.inputs.vision._replace(token_place_M=batch.inputs.vision.token_place_M + before)
    inputs = batch.inputs._replace(visual_index_BT=np.where(visual >= 0, visual + before, -1), vision=vision)
    return StepBatch(
        # A process with fewer micro-batches computes padding while the others work: the count must be the same for all.
        local=batch.replace(inputs=inputs, count=np.int32(max(used))),
        weight=np.float32(weights.sum()),
        rows=sum(rows),
        tokens=sum(tokens),
        samples=sum(samples),
        patches=sum(patches),
    )
