"""Which devices share one copy of the sampler's weights: replicas within a host, or over several whole ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from hypereyes_jax.configs.mesh import SAMPLER_AXES
from hypereyes_jax.configs.model import TextConfig
from hypereyes_jax.models.partition import ShardingError
from hypereyes_jax.models.sharding import neighbours


def replica_size(text: TextConfig, a_process: int, processes: int, devices: int = 0) -> tuple[int, int]:
    """How a replica's devices share out experts and heads: KV heads are cut first, then experts.

    Args:
      a_process: devices of each process.
      devices: of a replica; 0 = as many as the KV heads divide among within a process.

    Returns (parts of the experts, parts of the heads). Raises ShardingError if processes don't divide into replicas or
    replicas into processes, or a replica doesn't divide the model.
    """
    size = devices or math.gcd(a_process, text.num_key_value_heads)
    if size <= a_process and a_process % size:
        raise ShardingError(
            f"a rollout replica of {size} devices does not divide a process's {a_process}: choose "
            "--sizes.replica-devices so that it does, or give a process more devices"
        )
    if size > a_process and size % a_process:
        raise ShardingError(
            f"a rollout replica of {size} devices is not a whole number of processes, which have {a_process} each: "
            "choose --sizes.replica-devices so that it is"
        )
    if processes % max(1, size // a_process):
        raise ShardingError(
            f"rollout replicas of {size // a_process} processes ({size} devices) do not share out the run's "
            f"{processes} processes evenly: choose --sizes.replica-devices so that they do"
        )
    tensor = math.gcd(size, text.num_key_value_heads)
    if size > tensor and not text.moe:
        raise ShardingError(
            f"a rollout replica of {size} devices would hold some weights twice: the model has "
            f"{text.num_key_value_heads} KV heads and no experts; use {tensor} devices a replica"
        )
    return size // tensor, tensor


def replica_grid(text: TextConfig, devices: Sequence[Any], size: int = 0) -> np.ndarray:
    """All devices as [replicas, expert, tensor]. A replica's lie in one process, or are those of whole processes.

    The processes of a replica are neighbours: `models.sharding.neighbours`. Raises as `replica_size`.
    """
    everyone = neighbours(sorted(devices, key=lambda device: (device.process_index, device.id)))
    processes = len({device.process_index for device in everyone})
    expert, tensor = replica_size(text, len(everyone) // processes, processes, size)
    return np.array(everyone).reshape(-1, expert, tensor)


def replica_mesh(grid: np.ndarray) -> Mesh:
    """A mesh of some replicas' devices, [replicas, expert, tensor]; along its first axis, every weight is repeated."""
    return Mesh(grid[:, None], SAMPLER_AXES, axis_types=(AxisType.Auto,) * len(SAMPLER_AXES))


def replica_groups(grid: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """The processes that share a replica, for each process or group of them; the first of a group drives it."""
    groups = {tuple(sorted({device.process_index for device in replica.flat})) for replica in grid}
    return tuple(sorted(groups))


def own_replicas(grid: np.ndarray) -> np.ndarray:
    """Those replicas that this process's devices have a part in."""
    own = jax.process_index()
    return grid[[any(device.process_index == own for device in replica.flat) for replica in grid]]
