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


def split_devices(mesh: str, devices: Sequence[Any], processes: int = 1) -> SplitDevices:
    """The devices of `learner=MESH,sampler=COUNT`; the learner's come first.

    Args:
      mesh: the learner's part is a mesh as `configs.mesh_text.read_mesh` takes it, or a number of devices that share
        out weights and batch by FSDP; the sampler's is a number of devices.

    Raises UserError for something else, for another number of devices than there are, and for several processes: each
    feeds the learner and plays, so that none could do only one of them.
    """
    match = next((match for form in _FORMS if (match := re.fullmatch(form, mesh.replace(" ", "")))), None)
    if match is None or is_auto(match["learner"]):
        raise UserError(
            f"--mesh {mesh} must be learner=MESH,sampler=COUNT, like learner=4,sampler=4 or "
            "learner=fsdp=2,expert=2,sampler=4"
        )
    if processes > 1:
        raise UserError(
            f"--mesh {mesh} splits the devices of one process, but there are {processes}: give a mesh whose devices "
            "train and sample in turns"
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
    return SplitDevices(make_mesh(learner, list(devices[: learner.size])), list(devices[learner.size :]))
