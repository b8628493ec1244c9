"""The mesh of a run: a preset, or FSDP over all devices that there are."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from hypereyes_jax.configs.mesh import MESHES, MeshConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.sharding import make_mesh


def refuse_unknown_mesh(preset: str) -> None:
    """Raises UserError for a preset that there isn't. Asks for no devices, so it can be called before all else."""
    if preset and preset not in MESHES:
        raise UserError(f"there is no mesh {preset!r}. Known: {', '.join(MESHES)}")


def mesh_of_all_devices(preset: str = "") -> Mesh | None:
    """The devices of all processes as a preset arranges them; none = FSDP over all. None for a single device.

    Raises UserError for a preset that there isn't or that has another number of devices.
    """
    refuse_unknown_mesh(preset)
    devices = jax.devices()
    if preset:
        return make_mesh(MESHES[preset], devices)
    if len(devices) > 1:
        return make_mesh(MeshConfig("all devices", devices[0].platform, fsdp=len(devices)), devices)
    return None
