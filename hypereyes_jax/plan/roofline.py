"""How long a program takes at least: each resource of a device alone, at its published peak."""

from __future__ import annotations

from hypereyes_jax.configs.mesh import DEVICES, MeshConfig
from hypereyes_jax.plan.compile import GIB, ProgramPlan


def roofline_seconds(mesh: MeshConfig, program: ProgramPlan) -> dict[str, float]:
    """Seconds of a run, if each resource alone were the limit; all zero on a CPU, which has no published figures.

    Matmuls and collectives, each at full rate, and the launches of a GPU program at the cost that `plan.launches`
    states: a lower bound. Collectives along axes that leave a node (GPU) or a
    slice (TPU) go through the network, all others through the links.
    """
    if not mesh.device:
        return {"compute": 0.0, "memory": 0.0, "links": 0.0, "network": 0.0, "launches": 0.0}
    kind = DEVICES[mesh.device]
    outside = {"replica"} if mesh.slices > 1 else set()
    if mesh.platform == "gpu" and mesh.hosts > 1:
        # The innermost axes that fill a host stay on its links; all others leave it.
        inside, local = 1, mesh.size // mesh.hosts
        for name, size in reversed(list(zip(mesh.axes, mesh.shape, strict=True))):
            inside *= size
            if inside > local:
                outside.add(name)
    transfers = {"links": 0.0, "network": 0.0}
    for axes, kinds in program.sent_gib.items():
        transfers["network" if outside & set(axes.split("+")) else "links"] += sum(kinds.values()) * GIB
    return {
        "compute": (program.tflops - program.float8_tflops - program.int8_tflops) / kind.bf16_tflops
        + program.float8_tflops / max(kind.float8_tflops, kind.bf16_tflops)
        + program.int8_tflops / max(kind.int8_tops, kind.bf16_tflops),
        "memory": program.traffic_gib * GIB / (kind.memory_gbps * 1e9),
        "links": transfers["links"] / (kind.link_gbps * 1e9),
        "network": transfers["network"] / (kind.network_gbps * 1e9),
        "launches": program.launches.seconds,
    }
