"""The learner's weights, as copies on each host's own devices: what rollout replicas sample from.

The learner's mesh spans all processes and shares each weight out over them. A replica is a few devices of one host, so
that no host ever waits for another's searches. Copying is one exchange between all devices, in the learner's order of
processes; afterwards every process has its replicas' weights on its own devices, and needs nobody to use them.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from hypereyes_jax.configs.mesh import SAMPLER_AXES
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.partition import ShardingError
from hypereyes_jax.models.sharding import param_shardings


class ReplicaWeights:
    """Makes the copies. Every process must make one, and call it, at the same times.

    Args:
      model: whose weights they are.
      mesh: the learner's.
      dtype: of the copies; what the learner computes in.
      devices: of one replica; 0 = as many as the KV heads divide among within a process.

    Raises ShardingError if a process's devices don't divide into replicas, or a replica doesn't divide the model.

    Attributes:
      meshes: of this process's replicas.
    """

    def __init__(self, model: Qwen3VLConfig, mesh: Mesh, dtype: Any, devices: int = 0):
        everyone = sorted(mesh.devices.flat, key=lambda device: (device.process_index, device.id))
        processes = len({device.process_index for device in everyone})
        a_process = len(everyone) // processes
        size = devices or math.gcd(a_process, model.text.num_key_value_heads)
        if a_process % size:
            raise ShardingError(
                f"a rollout replica of {size} devices does not divide a process's {a_process}: choose "
                "--scale.replica-devices so that it does, or give a process more devices"
            )
        tensor = math.gcd(size, model.text.num_key_value_heads)
        if size > tensor and not model.text.moe:
            raise ShardingError(
                f"a rollout replica of {size} devices would hold some weights twice: the model has "
                f"{model.text.num_key_value_heads} KV heads and no experts; use {tensor} devices a replica"
            )
        grid = np.array(everyone).reshape(-1, 1, size // tensor, tensor)
        self._dtype = dtype
        # One mesh over all replicas: along its first axis, every weight is repeated.
        self._together = param_shardings(model, _mesh(grid))
        mine = [devices for devices in grid if devices.flat[0].process_index == jax.process_index()]
        self.meshes = [_mesh(devices[None]) for devices in mine]
        self._apart = [param_shardings(model, one) for one in self.meshes]
        self._cast = jax.jit(lambda x: x.astype(dtype))

    def __call__(self, params: Any) -> list[Any]:
        """The weights of each of this process's replicas, as they are now. Waits until they are there."""

        def copied(x: jax.Array, together: NamedSharding, *apart: NamedSharding) -> list[jax.Array]:
            copies = jax.device_put(self._cast(x), together)
            by_device = {shard.device: shard.data for shard in copies.addressable_shards}
            # A replica's arrays are the pieces that lie on its devices: nothing is copied again.
            return [
                jax.make_array_from_single_device_arrays(
                    x.shape, place, [by_device[device] for device in place.mesh.devices.flat]
                )
                for place in apart
            ]

        lists = jax.tree.map(copied, params, self._together, *self._apart)
        outer, inner = jax.tree.structure(params), jax.tree.structure([0] * len(self.meshes))
        return jax.block_until_ready(jax.tree.transpose(outer, inner, lists))

    def received_bytes(self, params: Any) -> int:
        """What this process's devices need of a copy and did not hold a share of already, all together."""
        total = 0
        size = np.dtype(self._dtype).itemsize
        for x, together in zip(jax.tree.leaves(params), jax.tree.leaves(self._together), strict=True):
            held = x.sharding.addressable_devices_indices_map(x.shape)
            for device, wanted in together.addressable_devices_indices_map(x.shape).items():
                needed = _overlap(wanted, wanted, x.shape)
                total += size * (needed - (_overlap(wanted, held[device], x.shape) if device in held else 0))
        return total


def _mesh(grid: np.ndarray) -> Mesh:
    return Mesh(grid.reshape(-1, *grid.shape[-3:]), SAMPLER_AXES, axis_types=(AxisType.Auto,) * len(SAMPLER_AXES))


def _overlap(one: tuple[slice, ...], other: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """Values that two pieces of an array share."""
    count = 1
    for a, b, size in zip(one, other, shape, strict=True):
        (a_start, a_stop, _), (b_start, b_stop, _) = a.indices(size), b.indices(size)
        count *= max(0, min(a_stop, b_stop) - max(a_start, b_start))
    return count
