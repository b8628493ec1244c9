"""Sets a process up to compile for devices that it does not have. Must run before jax is imported."""

from __future__ import annotations

import os
import sys

from hypereyes_jax.configs.mesh import MeshConfig


def prepare(mesh: MeshConfig) -> None:
    """Set the process up to compile for the mesh's devices. Raises RuntimeError if jax is imported already."""
    if "jax" in sys.modules:
        raise RuntimeError("plan.platform.prepare must run before jax is imported")
    os.environ["JAX_PLATFORMS"] = "cpu"
    # XLA's remarks on what a card that is not there would do better; what stops a compilation is raised
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if mesh.platform == "tpu":
        # libtpu looks for the machine it is on; these keep it from asking a metadata server that is not there.
        os.environ |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-16",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a stale lock file of another process would abort this one
        }
    elif mesh.platform == "cpu":
        flag = f"--xla_force_host_platform_device_count={mesh.size}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
