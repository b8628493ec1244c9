"""The mesh of a run: as it is named, or FSDP over all devices that there are."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.mesh_text import is_auto, read_mesh, refuse_unknown_mesh
from hypereyes_jax.models.hub import locate
from hypereyes_jax.models.qwen3_vl.checkpoint import read_model_config
from hypereyes_jax.models.sharding import make_mesh
from hypereyes_jax.models.storage import open_directory


def mesh_of_all_devices(text: str = "", checkpoint: str = "") -> Mesh | None:
    """The devices of all processes as a mesh arranges them; none = FSDP over all. None for a single device.

    Args:
      text: as `configs.mesh_text.read_mesh` takes it.
      checkpoint: whose model "auto" is for.

    Raises UserError for a mesh that there isn't or that has another number of devices.
    """
    refuse_unknown_mesh(text)
    devices = jax.devices()
    if text:
        model = read_model_config(open_directory(locate(checkpoint)))[1] if is_auto(text) else None
        return make_mesh(read_mesh(text, model, len(devices), jax.process_count()), devices)
    if len(devices) > 1:
        return make_mesh(MeshConfig("all devices", devices[0].platform, fsdp=len(devices)), devices)
    return None
