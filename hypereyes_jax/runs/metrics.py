"""Scalars and samples of a run's phases, to all of its trackers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from hypereyes_jax.files import writing
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.trackers import open_trackers
from hypereyes_jax.runs.tracking import Sample


class MetricsWriter:
    """Scalars of a phase, to the run's metrics file and its other trackers.

    A run that is continued from a checkpoint repeats the steps after it, from `first_step` on: each tracker sees to it
    that they count once.
    """

    def __init__(self, run: RunDirectory, phase: str, first_step: int = 0):
        self._path, self._phase = run.path, phase
        self._trackers = open_trackers(run.tracking, run.path, phase, first_step, run.run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep one step. Keys get the phase as prefix: `accuracy` of phase `rl` is kept as `rl/accuracy`."""
        scalars = {f"{self._phase}/{name}": float(value) for name, value in values.items()}
        with writing(self._path):
            for tracker in self._trackers:
                tracker.log(step, scalars)

    def log_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Show samples of one step, pictures included, in the trackers that can."""
        with writing(self._path):
            for tracker in self._trackers:
                tracker.log_samples(step, f"{self._phase}/samples", samples)

    def close(self) -> None:
        with writing(self._path), contextlib.ExitStack() as stack:
            for tracker in self._trackers:  # one that can't send what is left keeps no other from closing
                stack.callback(tracker.close)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
