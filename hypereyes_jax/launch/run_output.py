"""What the processes of a run write together: one directory, one line of progress, one metrics file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from hypereyes_jax.configs.numbers import check_numbers
from hypereyes_jax.env.search.config import SEARCH_ACCESS
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.runs.metrics import MetricsWriter
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory, settings_text
from hypereyes_jax.runs.stop import StopRequest
from hypereyes_jax.runs.terminal import Terminal
from hypereyes_jax.runs.trackers import check_trackers
from hypereyes_jax.runs.tracking import Sample, TrackingConfig

# What a run may be continued with another value of: where it is, what it runs on, whom it asks and how patiently, how
# long it goes on and how often it looks at itself. None of it changes a number that was made so far. (SFT's length is
# another matter: its learning rate falls towards the end.)
_MAY_DIFFER = frozenset(
    "out mesh distributed profile_step resume_step tracking stop teacher_server judge.url judge.model sampler_server "
    "settings.outages settings.steps settings.checkpoint_every "
    "settings.checkpoint_minutes eval_questions eval_every sizes.replica_devices sizes.slots sizes.cache_tokens "
    "sizes.offload_gib sizes.extend_rows "
    "sizes.row_choices sizes.balance sizes.keep_checkpoints sizes.learner.optimizer.moments_on_host "
    "settings.save_every settings.gap_warning".split()
) | {f"search.{name}" for name in SEARCH_ACCESS}

_WRITES = (
    "model", "adapter", "models", "best-model", "best-model.json", "tensorboard", "rollouts", "references.jsonl",
    "trajectories-validation*.jsonl",
)  # fmt: skip


class NoMetrics:
    """What a process that writes no metrics has in place of a `MetricsWriter`."""

    def __enter__(self) -> NoMetrics:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def log_samples(self, step: int, samples: Sequence[Sample]) -> None:
        pass


def open_run(
    processes: Processes,
    out: Path,
    command: str,
    config: Any,
    inputs: Mapping[str, Path | None] | None = None,
    tracking: TrackingConfig = TrackingConfig(),  # noqa: B008 - frozen
    stop: StopRequest | None = None,
) -> RunDirectory:
    """The run's directory, on a file system that all processes share; the first prints the settings and versions.

    `inputs` as `RunDirectory.open`. UserError in all if one can't, or a number of the settings
    is one that none can have.
    """
    problem, directory, run = None, None, ""
    if processes.first:
        try:
            check_numbers(config)
            check_trackers(tracking)  # missing, it would be missed when the metrics are opened: after the selection
            directory = RunDirectory.open(
                out,
                command,
                config,
                may_differ=_MAY_DIFFER,
                inputs=inputs,
                devices=_devices(processes.count),
                tracking=tracking,
                stop=stop,
                writes=_WRITES,
            )
            run = directory.run
            print(settings_text(config))
            print(settings_text(directory.start))
        except UserError as error:
            problem = str(error)
    problem, run = processes.gather([problem, run])[0]
    if problem is not None:
        raise UserError(problem)
    return directory or RunDirectory(out, tracking, stop=stop, run=run)


def open_stages(processes: Processes) -> Stages:
    """Progress, shown by the first process."""
    return Stages() if processes.first else Stages(Terminal(quiet=True))


def open_metrics(
    processes: Processes, directory: RunDirectory, phase: str, first_step: int
) -> MetricsWriter | NoMetrics:
    """Metrics of one phase, written by the first process."""
    return MetricsWriter(directory, phase, first_step) if processes.first else NoMetrics()


def _devices(processes: int) -> str:
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}, {processes} process{'es' if processes > 1 else ''}"
