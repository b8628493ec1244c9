"""Learner and samplers on devices of their own: `--mesh learner=4,sampler=4`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from hypereyes_jax.configs.mesh import MESHES, MeshConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.sharding import make_mesh


class SplitDevices(NamedTuple):
    """Which devices train, and which sample."""

    learner: Mesh
    samplers: list[Any]


def is_split(mesh: str) -> bool:
    """Whether the name of a mesh gives learner and samplers devices of their own."""
    return "=" in mesh


def split_devices(mesh: str, devices: Sequence[Any], processes: int = 1) -> SplitDevices:
    """The devices of `learner=PRESET,sampler=COUNT`; the learner's come first.

    Args:
      mesh: the learner's part is a preset of `configs.mesh`, or a number of devices that share out weights and batch
        by FSDP; the sampler's is a number of devices.

    Raises UserError for something else, for another number of devices than there are, and for several processes: each
    feeds the learner and plays, so that none could do only one of them.
    """
    parts = dict(part.split("=", 1) for part in mesh.split(",") if "=" in part)
    if mesh.count(",") != 1 or set(parts) != {"learner", "sampler"}:
        raise UserError(f"--mesh {mesh} must be a preset, or learner=PRESET,sampler=COUNT, like learner=4,sampler=4")
    if processes > 1:
        raise UserError(
            f"--mesh {mesh} splits the devices of one process, and there are {processes}: give a preset, whose devices "
            "train and sample in turns"
        )
    if not parts["sampler"].isdecimal() or int(parts["sampler"]) < 1:
        raise UserError(f"--mesh {mesh}: the sampler's part must be a number of devices, not {parts['sampler']!r}")
    samplers = int(parts["sampler"])
    name = parts["learner"]
    if name.isdecimal():
        preset = MeshConfig(f"{name} devices", devices[0].platform, fsdp=int(name))
    elif name in MESHES:
        preset = MESHES[name]
    else:
        raise UserError(f"there is no mesh {name!r}. Known: {', '.join(MESHES)}, or a number of devices")
    if preset.size < 1 or preset.size + samplers != len(devices):
        raise UserError(
            f"--mesh {mesh} names {preset.size} + {samplers} devices, and there are {len(devices)}: they must add up"
        )
    return SplitDevices(make_mesh(preset, list(devices[: preset.size])), list(devices[preset.size :]))
