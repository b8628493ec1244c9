"""Models of a training on its way: at every so many steps, and the best by the periodic evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypereyes_jax.eval.run_files import BEST_RECORD
from hypereyes_jax.files import read_json_object, write_json
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.models.lora import Lora
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.runs.run_directory import RunDirectory

MODELS, BEST = "models", "best-model"
_MOST_MASKED = 0.1
# (place, weights, adapters to merge): every process must call it
WriteModel = Callable[[Path, Params, Lora | None], None]


class Snapshots:
    """Writes models of a run beside its checkpoints. Every process must make the same calls.

    Args:
      every: steps between two models in `models/step-N/`; 0 = none.
      first: the step that the run goes on with: what was written after it is of another past, and removed.
    """

    def __init__(self, directory: RunDirectory, processes: Processes, write: WriteModel, every: int, first: int):
        self._directory, self._processes, self._write, self._every = directory, processes, write, every
        if processes.first:
            _remove_after(directory, first)
        record = directory.file(BEST_RECORD)
        best = read_json_object(record) if processes.first and record.exists() else {}
        self._best: float | None = processes.gather(best.get("eval_accuracy"))[0]

    def write_if_due(self, step: int, params: Params, lora: Lora | None) -> None:
        """Writes a snapshot if one is due after `step` steps in all."""
        if self._every and step % self._every == 0:
            self._write(self._directory.file(MODELS) / f"step-{step}", params, lora)

    def keep_if_best(self, step: int, accuracy: float, masked: float, params: Params, lora: Lora | None) -> None:
        """Keeps the model in `best-model/` if no earlier one of the run was as accurate; ties stay with the earlier.

        Args:
          masked: part of the evaluation's questions that failed for outside reasons. With more than a tenth of them it
            was another evaluation than the others, and is compared with none.
        """
        if masked > _MOST_MASKED or (self._best is not None and accuracy <= self._best):
            return
        self._write(self._directory.file(BEST), params, lora)
        self._best = accuracy
        if self._processes.first:  # after the model: a kill between the two writes it again
            write_json(self._directory.file(BEST_RECORD), {"step": step, "eval_accuracy": accuracy})


def _remove_after(directory: RunDirectory, first: int) -> None:
    for path in directory.file(MODELS).glob("step-*"):
        number = path.name.removeprefix("step-")
        if number.isdecimal() and int(number) > first:
            shutil.rmtree(path)
    record = directory.file(BEST_RECORD)
    if record.exists():
        best: dict[str, Any] = read_json_object(record)
        if not isinstance(best.get("step"), int) or best["step"] > first:
            record.unlink()
            shutil.rmtree(directory.file(BEST), ignore_errors=True)
