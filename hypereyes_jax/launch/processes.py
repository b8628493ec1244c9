"""The processes of one run: this one's place among all, and what they tell each other.

A process alone with one device needs no mesh, and waits for nobody.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh_text import is_split, refuse_unknown_mesh
from hypereyes_jax.launch.initialize import join
from hypereyes_jax.launch.mesh import mesh_of_all_devices
from hypereyes_jax.launch.replicas import ReplicaGroups
from hypereyes_jax.launch.split_mesh import split_devices
from hypereyes_jax.learner.global_batch import gather_from_processes, local_shards

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_FEWEST_BYTES = 1024  # that processes send each other at a time


class Processes:
    """This process's place among all. Every process must call `gather` and `first_reason` in the same order.

    Args:
      mesh: over the devices of all processes; None = one device.
      replicas: which processes share a rollout replica; None = each has its own.
      on_host: how many of them, this one included, run on this host.
    """

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        mesh: Mesh | None = None,
        replicas: ReplicaGroups | None = None,
        on_host: int = 1,
    ):
        self.index, self.count, self.mesh, self.on_host = index, count, mesh, on_host
        self.replicas = replicas or ReplicaGroups(index, tuple((number,) for number in range(count)))
        self.samplers: Sequence[Any] | None = None  # devices that sample and do not train; None: those that train do
        self.waited_seconds = 0.0  # in `gather`, for the slowest, since this process began

    @classmethod
    def start(cls, config: DistributedConfig, mesh: str = "", checkpoint: str = "") -> Processes:
        """Join the others if told to, and lay the mesh over all devices there are: `mesh_of_all_devices`.

        It may also give learner and samplers devices of their own: `split_devices`.

        Call before anything asks jax for devices. Raises UserError as `initialize.join`, `mesh_of_all_devices` and
        `split_devices`.
        """
        refuse_unknown_mesh(mesh, splits=True)
        join(config)
        split = split_devices(mesh, jax.devices()) if is_split(mesh) else None
        training = mesh_of_all_devices(mesh, checkpoint) if split is None else split.learner
        own = cls(jax.process_index(), jax.process_count(), training)
        own.samplers = None if split is None else split.samplers
        host = _host()
        own.on_host = own.gather(host).count(host)
        return own

    def sharing_replicas(self, groups: Sequence[tuple[int, ...]]) -> Processes:
        """The same process, with those that share a rollout replica named: `rollout.replicas.layout.replica_groups`."""
        own = Processes(self.index, self.count, self.mesh, ReplicaGroups(self.index, tuple(groups)), self.on_host)
        own.waited_seconds, own.samplers = self.waited_seconds, self.samplers
        return own

    @property
    def first(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.index == 0

    @property
    def shards(self) -> int:
        """Data shards that this process feeds."""
        return 1 if self.mesh is None else local_shards(self.mesh)[1]

    def own_name(self, file: str) -> str:
        """Name of a file that each process writes for itself: "NAME.json", "NAME-1.json", ..."""
        stem, dot, ending = file.rpartition(".")
        return file if self.first else f"{stem}-{self.index}{dot}{ending}"

    def gather(self, own: Any) -> list[Any]:
        """Every process's JSON-able value, in the order of the processes. Waits for all."""
        if self.count == 1:
            return [own]
        began = time.perf_counter()
        text = np.frombuffer(json.dumps(own).encode(), np.uint8)
        assert self.mesh is not None
        sizes = gather_from_processes(self.mesh, np.array([text.size], np.int32)).reshape(-1)
        # Each size is a program of its own, which is compiled and stays: a few sizes, however long a run is.
        buffer = np.zeros(max(_FEWEST_BYTES, 1 << (int(sizes.max()) - 1).bit_length()), np.uint8)
        buffer[: text.size] = text
        rows = gather_from_processes(self.mesh, buffer).reshape(self.count, -1)
        self.waited_seconds += time.perf_counter() - began
        return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]

    def first_reason(self, own: str) -> str:
        """The first reason that any process gives, in all of them; empty if none does. Waits for all."""
        return next((reason for reason in self.gather(own) if reason), "")


def _host() -> str:
    """What tells this host from others: its boot, which containers of one host share, else its name."""
    try:
        return _BOOT.read_text().strip()
    except OSError:  # not Linux
        return socket.gethostname()
