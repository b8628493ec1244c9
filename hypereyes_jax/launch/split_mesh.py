"""Learner and samplers on devices of their own: `--mesh learner=4,sampler=4`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from hypereyes_jax.configs.mesh_text import read_split
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.sharding import make_mesh


class SplitDevices(NamedTuple):
    """Which devices train, and which sample."""

    learner: Mesh
    samplers: list[Any]


def split_devices(mesh: str, devices: Sequence[Any]) -> SplitDevices:
    """The devices of `learner=MESH,sampler=COUNT`. Each process's first ones train, and its others sample.

    So every process feeds its part of the learner with what its own samplers played.

    Args:
      mesh: as `configs.mesh_text.read_split` takes it.
      devices: of all processes.

    Raises UserError for something else, for another number of devices than there are, and for numbers that the
    processes can't share evenly.
    """
    learner, samplers = read_split(mesh)
    if learner.size + samplers != len(devices):
        raise UserError(
            f"--mesh {mesh} names {learner.size} + {samplers} devices, and there are {len(devices)}: they must add up"
        )
    processes = sorted({device.process_index for device in devices})
    if learner.size % len(processes) or samplers % len(processes):
        raise UserError(
            f"--mesh {mesh}: {learner.size} devices that train and {samplers} that sample can't be shared out evenly "
            f"among {len(processes)} processes, each of which does both: choose multiples of {len(processes)}"
        )
    first = learner.size // len(processes)
    of_each = [[device for device in devices if device.process_index == process] for process in processes]
    training = [device for own in of_each for device in own[:first]]
    return SplitDevices(make_mesh(learner, training), [device for own in of_each for device in own[first:]])
