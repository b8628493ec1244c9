"""Several processes as one run: on Slurm, Cloud TPU and GKE found by jax itself, elsewhere told by three settings."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

import jax
from jax._src.distributed import global_state

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.stop import STOPPED

_DAY_MS = 24 * 60 * 60 * 1000
_PARTING_SECONDS = 5  # that a failed process waits for the others to fail alike


def join(config: DistributedConfig) -> tuple[int, int]:
    """Connect to the other processes, unless that is done or not asked for. Call before anything asks jax for devices.

    Returns this process's number and how many there are.

    Raises UserError if only some of coordinator, processes and process are given, or the others can't be reached.
    """
    if not config.join or joined():
        return global_state.process_id, global_state.num_processes or 1
    addresses = (config.coordinator, config.processes, config.process)
    if any(each is None for each in addresses) and any(each is not None for each in addresses):
        raise UserError(
            "give all of --distributed.coordinator, --distributed.processes and --distributed.process, or none of them "
            "on a known cluster"
        )
    # XLA's own collectives between CPU processes; other platforms ignore it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It catches SIGTERM and goes on. A scheduler's SIGTERM must end the run, which continues from its last checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process,
            _local_devices(),
            initialization_timeout=config.start_timeout,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        where = config.coordinator or "the cluster's coordinator"
        raise UserError(
            f"could not join the other processes through {where}: {str(error).splitlines()[0]}. Check that all "
            "processes run and that its port is open."
        ) from error
    return global_state.process_id, global_state.num_processes


def joined() -> bool:
    """Whether this process is one of several. Asks for no devices, which would wait for the others."""
    return global_state.client is not None and global_state.num_processes > 1


def wait_for_others(name: str) -> None:
    """Returns once all processes have called it with that name, for up to a day: one may be copying a large model.

    Raises UserError if one of them dies meanwhile.
    """
    client = global_state.client
    if client is None:
        return
    try:
        client.wait_at_barrier(name, _DAY_MS)
    except RuntimeError as error:
        raise UserError(f"another process died before all was done: {str(error).splitlines()[0]}") from error


def leave(code: int) -> NoReturn:
    """End this process, which failed or stopped, and with it the run. For one that has `joined`, after it said why.

    An ordinary exit would wait for the others for minutes, and they for this one. Where all fail alike they part in
    order; else the others find this one dead: at once if they wait for its numbers or it is process 0, else by its
    heartbeat.
    """
    if code != STOPPED:
        who = f"process {global_state.process_id} of {global_state.num_processes}"
        print(f"hypereyes: {who} ends after this error, and the run with it", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    parting.start()
    parting.join(_PARTING_SECONDS)
    os._exit(code)


def _local_devices() -> list[int] | None:
    """Numbers of this process's GPUs: empty = all that it sees, None = what jax makes of the cluster.

    Of a Slurm task jax expects that it drives one GPU, that of its number on the node. A node's only task drives all.
    """
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:  # told by hand
        return None
    tasks, nodes = os.environ.get("SLURM_NTASKS"), os.environ.get("SLURM_STEP_NUM_NODES")
    return [] if tasks is not None and tasks == nodes else None
