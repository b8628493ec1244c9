"""Devices that are not there: compile-only topologies of TPUs and NVIDIA GPUs.

Needs the compilers of the extra `plan`: libtpu for TPUs, jax-cuda13-plugin (no driver, no card) for GPUs. `prepare`
must run before jax is imported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from hypereyes_jax.configs.mesh import DEVICES, MeshConfig
from hypereyes_jax.errors import UserError


class _Card(NamedTuple):
    """What XLA's GPU compiler asks of a card, from NVIDIA's data sheets and CUDA's table of compute capabilities."""

    name: str
    processors: int  # streaming multiprocessors
    clock_ghz: float
    cache: int  # bytes, level 2
    capability: tuple[int, int] = (9, 0)
    shared_memory: int = 233_472  # bytes of a multiprocessor; a block may have 1 KiB less
    threads: int = 2048  # of a multiprocessor


_CARDS = {
    "h20": _Card("NVIDIA H20", 78, 1.98, 60 << 20),
    "h100": _Card("NVIDIA H100 80GB HBM3", 132, 1.98, 50 << 20),
    "h200": _Card("NVIDIA H200", 132, 1.98, 60 << 20),
    "rtx4090": _Card("NVIDIA GeForce RTX 4090", 128, 2.52, 72 << 20, (8, 9), 102_400, 1536),
}


def devices(mesh: MeshConfig) -> list[Any]:
    """Compile-only devices of the mesh. Raises UserError if the compiler for them is not installed."""
    if mesh.platform == "cpu":
        return list(jax.devices("cpu"))
    try:
        if mesh.platform == "tpu":
            slices = {"num_slices": mesh.slices} if mesh.slices > 1 else {}
            topology = topologies.get_topology_desc(platform="tpu", topology_name=mesh.topology, **slices)
        else:
            topology = topologies.get_topology_desc(
                platform="cuda", topology_name=mesh.device, topology=mesh.topology, target_config=_card(mesh.device)
            )
    except (RuntimeError, ValueError) as error:
        package = "libtpu==0.0.42.*" if mesh.platform == "tpu" else f"jax-cuda13-plugin=={jax.__version__}"
        raise UserError(
            f"can't compile for {mesh.device} here: {str(error).splitlines()[0]}. Install the compiler with "
            f"`pip install '{package}'`: it needs no such device, nor its driver."
        ) from error
    return list(topology.devices)


def compiler_options(mesh: MeshConfig) -> dict[str, Any]:
    """Autotuning runs candidate kernels on the device, which is not there."""
    return {"xla_gpu_autotune_level": 0} if mesh.platform == "gpu" else {}


def _card(device: str) -> str:
    card, kind = _CARDS[device], DEVICES[device]
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": card.shared_memory,
        "threads_per_core_limit": card.threads,
        "core_count": card.processors,
        "fpus_per_core": 128,
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": int(kind.memory_gbps * 1e9),
        "l2_cache_size": card.cache,
        "clock_rate_ghz": card.clock_ghz,
        "device_memory_size": int(kind.memory_gib * 2**30),
        "shared_memory_per_block_optin": card.shared_memory - 1024,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    fields = " ".join(f"{key}: {value}" for key, value in info.items())
    return (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: {card.capability[0]} "
        f"minor: {card.capability[1]} }} }} "
        f'platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{card.name}"'
    )
