"""How the processes of one run find each other, as settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DistributedConfig:
    """How this process finds the others. Leave all unset on Slurm, Cloud TPU and GKE, and for a single process."""

    join: bool = False
    """Run as one of several processes."""
    coordinator: str | None = None
    """Address of process 0 as host:port, the same for all processes."""
    processes: int | None = None
    """Number of processes of the run."""
    process: int | None = None
    """Number of this process, counted from 0."""
    start_timeout: int = 300
    """Seconds to wait for the others at the start."""
    heartbeat_timeout: int = 60
    """Seconds after which a silent process counts as dead; all others then end with a message that names it."""
