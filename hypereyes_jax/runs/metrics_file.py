"""Scalars and samples of a run's phases, a line a step, and whoever else keeps them.

`metrics.jsonl` is the record: each step stands in it once, whatever crashed in between. The trackers beside it get the
same series and the samples with their pictures.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import json_kind, read_json_lines, write_atomic, writing
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.trackers import Sample, open_trackers

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Scalars of a phase, to `metrics.jsonl` and to the run's trackers.

    A run that is continued from a checkpoint repeats the steps after it; `first_step` drops what those wrote before, so
    that each step appears once.
    """

    def __init__(self, run: RunDirectory, phase: str, first_step: int = 0):
        self._phase = phase
        self._path = run.file(METRICS)
        _drop_steps(self._path, phase, first_step)
        with writing(self._path):
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._trackers = open_trackers(run.tracking, run.path, phase, first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one step. Keys get the phase as prefix: `accuracy` of phase `rl` is saved as `rl/accuracy`."""
        scalars = {f"{self._phase}/{name}": float(value) for name, value in values.items()}
        line = {"phase": self._phase, "step": step, "time": time.time(), **{k: _finite(v) for k, v in scalars.items()}}
        with writing(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
            for tracker in self._trackers:
                tracker.log(step, scalars)

    def log_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Show samples of one step, pictures included, in the trackers that can."""
        with writing(self._path):
            for tracker in self._trackers:
                tracker.log_samples(step, f"{self._phase}/samples", samples)

    def close(self) -> None:
        with writing(self._path):
            for tracker in self._trackers:
                tracker.close()
            self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a `metrics.jsonl`, oldest first; a last line torn by a kill is left out, and no file is no line.

    Raises:
      UserError: a line is not one that `MetricsWriter` writes; names the file and the line.
    """
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for number, row in read_json_lines(path):
        problem = _problem(row)
        if problem:
            raise UserError(
                f"{path}, line {number} is damaged ({problem}). Remove that line and run the command again."
            )
        rows.append(row)
    return rows


def _problem(row: Any) -> str:
    """What is wrong with a row of metrics, in words; empty for nothing."""
    if not isinstance(row, dict):
        return f"it holds {json_kind(row)}, not an object"
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return "it needs 'step', a number from 0"
    if not isinstance(row.get("phase"), str):
        return "it needs 'phase', a text"
    for name, value in row.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if "/" in name and value is not None and not number:
            return f"{name!r} must be a number or null, not {json_kind(value)}"
    return ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN or infinity


def _drop_steps(path: Path, phase: str, first_step: int) -> None:
    if not path.exists():
        return
    rows = read_metrics(path)
    earlier = [row for row in rows if row["phase"] != phase or row["step"] < first_step]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in earlier))
