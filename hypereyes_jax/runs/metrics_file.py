"""The metrics file of a run: a JSON line a step, which the report and continued runs read again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import json_kind, read_json_lines, write_atomic, writing
from hypereyes_jax.runs.run_directory import CONFIG, refuse_other_run
from hypereyes_jax.runs.tracking import Sample

METRICS = "metrics.jsonl"


class MetricsFile:
    """The tracker that every run has: a JSON line a step, with all that it was given under its full names.

    What a crashed run wrote of `first_step` and later steps is dropped, so that each step stands in the file once, and
    so is a last line that a kill cut off. Each line carries the run's id, and one of another run is refused.
    """

    def __init__(self, path: Path, phase: str, first_step: int = 0, run: str = ""):
        self._path, self._phase, self._run = path, phase, run
        _drop_steps(path, phase, first_step, run)
        with writing(path):
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        whose = {"run": self._run} if self._run else {}
        values = {name: _finite(value) for name, value in scalars.items()}
        line = {"phase": self._phase, "step": step, "time": time.time(), **whose, **values}
        with writing(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()

    def log_samples(self, step: int, name: str, samples: Sequence[Sample]) -> None:
        """Keeps none: the run's rollouts are in files of their own, with their pictures (`eval.rollout_files`)."""

    def close(self) -> None:
        with writing(self._path):
            self._file.close()


def read_metrics(path: Path, run: str = "") -> list[dict[str, Any]]:
    """Lines of a `metrics.jsonl`, oldest first; a last line torn by a kill is left out, and no file is no line.

    Args:
      run: id of the run that they must be of, if they carry one; "" = any.

    Raises:
      UserError: a line is not one that `MetricsFile` writes, or another run's; names the file and the line.
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
        refuse_other_run(f"{path}, line {number}", row.get("run", ""), run, path.with_name(CONFIG))
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
        return "it needs 'phase', a string"
    for name, value in row.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if "/" in name and value is not None and not number:
            return f"{name!r} must be a number or null, not {json_kind(value)}"
    return ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN or infinity


def _drop_steps(path: Path, phase: str, first_step: int, run: str) -> None:
    if not path.exists():
        return
    rows = read_metrics(path, run)
    earlier = [row for row in rows if row["phase"] != phase or row["step"] < first_step]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in earlier))
