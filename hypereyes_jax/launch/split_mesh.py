"""Learner and samplers on devices of their own: `--mesh learner=4,sampler=4`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.mesh_text import is_auto, read_mesh
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.sharding import make_mesh

_FORMS = (
    r"learner=(?P<learner>.+),sampler=(?P<sampler>[^,=]+)",
    r"sampler=(?P<sampler>[^,=]+),learner=(?P<learner>.+)",
)


class SplitDevices(NamedTuple):
    """Which devices train, and which sample."""

    learner: Mesh
    samplers: list[Any]


def split_devices(mesh: str, devices: Sequence[Any]) -> SplitDevices:
    """The devices of `learner=MESH,sampler=COUNT`. Each process's first ones train, and its others sample.

    So every process feeds its part of the learner with what its own samplers played.

    Args:
      mesh: the learner's part is a mesh as `configs.mesh_text.read_mesh` takes it, or a number of devices that share
        out weights and batch by FSDP; the sampler's is a number of devices. Both count those of all processes.
      devices: of all processes.

    Raises UserError for something else, for another number of devices than there are, and for numbers that the
    processes can't share evenly.
    """
    match = next((match for form in _FORMS if (match := re.fullmatch(form, mesh.replace(" ", "")))), None)
    if match is None or is_auto(match["learner"]):
        raise UserError(
            f"--mesh {mesh} must be learner=MESH,sampler=COUNT, like learner=4,sampler=4 or "
            "learner=fsdp=2,expert=2,sampler=4"
        )
    name, samplers = match["learner"], match["sampler"]
    if not samplers.isdecimal() or int(samplers) < 1:
        raise UserError(f"--mesh {mesh}: the sampler's part must be a number of devices, not {samplers!r}")
    learner = (
        MeshConfig(f"{name} devices", devices[0].platform, fsdp=int(name)) if name.isdecimal() else read_mesh(name)
    )
    if learner.size < 1 or learner.size + int(samplers) != len(devices):
        raise UserError(
            f"--mesh {mesh} names {learner.size} + {samplers} devices, and there are {len(devices)}: they must add up"
        )
    processes = sorted({device.process_index for device in devices})
    if learner.size % len(processes) or int(samplers) % len(processes):
        raise UserError(
            f"--mesh {mesh}: {learner.size} devices that train and {samplers} that sample can't be shared out evenly "
            f"among {len(processes)} processes, each of which does both: choose multiples of {len(processes)}"
        )
    first = learner.size // len(processes)
    of_each = [[device for device in devices if device.process_index == process] for process in processes]
    training = [device for own in of_each for device in own[:first]]
    return SplitDevices(make_mesh(learner, training), [device for own in of_each for device in own[first:]])
