"""Several processes as one run: on Slurm, Cloud TPU and GKE found by jax itself, elsewhere told by three settings."""

from __future__ import annotations

from dataclasses import dataclass

from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class DistributedConfig:
    """How this process finds the others. Leave all unset on Slurm, Cloud TPU and GKE, and for a single process."""

    join: bool = False
    """Run as one of several processes."""
    coordinator: str | None = None
    """host:port of process 0, the same for all."""
    processes: int | None = None
    process: int | None = None
    """This process's number, from 0."""
    start_timeout: int = 300
    """Seconds to wait for the others at the start."""
    heartbeat_timeout: int = 60
    """Seconds after which a silent process counts as dead, and all others end with a message that names it."""


def join(config: DistributedConfig) -> None:
    """Connect to the other processes. Call before anything asks jax for devices.

    Raises UserError if only some of coordinator, processes and process are given, or the others can't be reached.
    """
    import jax

    if not config.join:
        return
    told = (config.coordinator, config.processes, config.process)
    if any(each is None for each in told) and any(each is not None for each in told):
        raise UserError("give all of --coordinator, --processes and --process, or none of them on a known cluster")
    # XLA's own collectives between CPU processes; other platforms ignore it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It catches SIGTERM and goes on. A scheduler's SIGTERM must end the run, which continues from its last checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process,
            initialization_timeout=config.start_timeout,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        where = config.coordinator or "the cluster's coordinator"
        raise UserError(
            f"could not join the other processes through {where}: {str(error).splitlines()[0]}. Check that all "
            "processes run and that its port is open."
        ) from error
