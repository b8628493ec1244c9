"""The learner's weights, as copies on replicas' devices: what rollout replicas sample from.

The learner's mesh spans all processes and shares each weight out over them. A replica is a few devices of one host, or
all devices of a few. Copying is one exchange between all devices; afterwards every process has its replicas' weights,
or its part of them, on its own devices. Where samplers have devices of their own, the learner's exchange each weight
among themselves, so that each process has it once, and a process copies it to its samplers: no program spans devices
that train and devices that sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.lora import Lora
from hypereyes_jax.models.partition import ShardingError
from hypereyes_jax.models.sharding import lora_shardings, param_shardings
from hypereyes_jax.rollout.replicas.layout import own_replicas, replica_grid, replica_mesh


class ReplicaWeights:
    """Makes the copies. Every process must make one, and call it, at the same times.

    Args:
      model: whose weights they are.
      mesh: the learner's.
      dtype: of the copies; what the learner computes in.
      devices: of one replica; 0 = as many as the KV heads divide among within a process.
      among: the devices that are shared out to replicas; None = the learner's.

    Raises ShardingError as `layout.replica_size`, and for a replica that spans processes where samplers have devices of
    their own.

    Attributes:
      grid: all replicas' devices, [replicas, expert, tensor].
      meshes: of the replicas that this process has a part in.
    """

    def __init__(
        self, model: Qwen3VLConfig, mesh: Mesh, dtype: Any, devices: int = 0, among: Sequence[Any] | None = None
    ):
        self.grid = replica_grid(model.text, list(mesh.devices.flat) if among is None else among, devices)
        self._model, self._dtype = model, dtype
        own = own_replicas(self.grid)
        self._once_a_process = None if among is None else _OnceAProcess(mesh)
        if among is not None and len({device.process_index for device in own.flat}) > 1:
            raise ShardingError(
                f"a rollout replica of {self.grid[0].size} devices spans processes, which samplers with devices of "
                "their own can not: choose --sizes.replica-devices so that it divides a process's samplers"
            )
        self._all = replica_mesh(self.grid if among is None else own)
        self._together = param_shardings(model, self._all)
        self.meshes = [replica_mesh(replica[None]) for replica in own]
        self._apart = [param_shardings(model, one) for one in self.meshes]
        self._cast = jax.jit(lambda x: x.astype(dtype))

    def __call__(self, params: Any) -> list[Any]:
        """The weights of each of this process's replicas, as they are now. Waits until they are there.

        Of a replica over several processes, each of them gets its part of the same arrays. Weights that lie where a
        replica has them already, in its precision, are not copied: it then holds the learner's own arrays.
        """
        return self._copied(params, self._together, self._apart)

    def kept(self, params: Any) -> list[Any]:
        """The same in buffers of their own: a training step takes the learner's, also of weights that do not train."""
        return self._copied(params, self._together, self._apart, shares=False)

    def adapters(self, lora: Lora) -> list[Lora]:
        """Copies adapters, as calling it copies weights."""
        return self._copied(lora, *self._places_of(lora))

    def shares(self, params: Any) -> bool:
        """Whether replicas hold all of these weights' own arrays."""
        return all(map(self._lies_there, jax.tree.leaves(params), jax.tree.leaves(self._together)))

    def _lies_there(self, x: jax.Array, place: NamedSharding) -> bool:
        return bool(x.dtype == self._dtype and x.sharding.is_equivalent_to(place, x.ndim))

    def _places_of(self, lora: Lora) -> tuple[Lora, list[Lora]]:
        """Where adapters lie on all replicas together, and on each of this process's."""
        return (
            lora_shardings(self._model, lora, self._all),
            [lora_shardings(self._model, lora, one) for one in self.meshes],
        )

    def _copied(self, tree: Any, together: Any, each: list[Any], shares: bool = True) -> list[Any]:
        def copied(x: jax.Array, together: NamedSharding, *apart: NamedSharding) -> list[jax.Array]:
            if not shares and self._lies_there(x, together):
                x = jnp.copy(x)
            # One at a time: programs in flight together may run in another order in another process, and CPU devices
            # then wait for each other for ever.
            x = x if x.dtype == self._dtype else self._cast(x)
            x = x if self._once_a_process is None else self._once_a_process(x)
            copies = jax.block_until_ready(jax.device_put(x, together))
            by_device = {shard.device: shard.data for shard in copies.addressable_shards}
            # A replica's arrays are the pieces that lie on its devices: nothing is copied again.
            return [
                jax.make_array_from_single_device_arrays(
                    x.shape, place, [by_device[device] for device in place.mesh.devices.flat if device in by_device]
                )
                for place in apart
            ]

        lists = jax.tree.map(copied, tree, together, *each)
        outer, inner = jax.tree.structure(tree), jax.tree.structure([0] * len(self.meshes))
        return jax.tree.transpose(outer, inner, lists)

    def received_bytes(self, tree: Any) -> int:
        """What this process's devices need of a copy and did not hold a share of already, all together.

        Args:
          tree: weights, or adapters.
        """
        total = 0
        size = np.dtype(self._dtype).itemsize
        places = self._places_of(tree)[0] if isinstance(tree, Lora) else self._together
        for x, together in zip(jax.tree.leaves(tree), jax.tree.leaves(places), strict=True):
            present = x.sharding.addressable_devices_indices_map(x.shape)
            for device, index in together.addressable_devices_indices_map(x.shape).items():
                needed = _overlap(index, index, x.shape)
                total += size * (needed - (_overlap(index, present[device], x.shape) if device in present else 0))
        return total


class _OnceAProcess:
    """Arrays of a mesh over processes, once in each: an array of this process's devices alone.

    Calling it is an exchange between the mesh's devices, so every process must call it at the same times.
    """

    def __init__(self, mesh: Mesh):
        by_process: dict[int, list[Any]] = {}
        for device in mesh.devices.flat:
            by_process.setdefault(device.process_index, []).append(device)
        self._all = Mesh(np.array([by_process[process] for process in sorted(by_process)]), ("process", "device"))
        self._own = Mesh(np.array(by_process[jax.process_index()]), ("device",))

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = self._own.size
        # Cut where it divides, so that no device holds more than its share while it is on its way.
        cut = next((axis for axis in np.argsort(x.shape)[::-1] if x.shape[axis] % parts == 0), None)
        place = PartitionSpec() if cut is None else PartitionSpec(*[None] * int(cut), "device")
        spread = jax.device_put(x, NamedSharding(self._all, place))
        by_device = {shard.device: shard.data for shard in spread.addressable_shards}
        pieces = [by_device[device] for device in self._own.devices.flat]
        return jax.make_array_from_single_device_arrays(x.shape, NamedSharding(self._own, place), pieces)


def _overlap(one: tuple[slice, ...], other: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """Values that two pieces of an array share."""
    count = 1
    for a, b, size in zip(one, other, shape, strict=True):
        (a_start, a_stop, _), (b_start, b_stop, _) = a.indices(size), b.indices(size)
        count *= max(0, min(a_stop, b_stop) - max(a_start, b_start))
    return count
