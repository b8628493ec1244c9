"""What the runs of a study left on disk: results question by question, and the references of RL over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark_run import QuestionResult, read_results
from hypereyes_jax.eval.metrics import wilson_interval
from hypereyes_jax.eval.run_files import REFERENCES_LOG
from hypereyes_jax.files import read_json_lines
from hypereyes_jax.study.statistics import Interval, mean_interval

RESULTS = "benchmark-model-questions.jsonl"  # of `hypereyes eval CHECKPOINT --questions SOURCE`


@dataclass(frozen=True)
class Results:
    """Results of one variant over all its seeds and shuffles, keyed so that variants pair question by question."""

    rows: Mapping[str, QuestionResult]

    @property
    def n(self) -> int:
        return len(self.rows)

    @property
    def correct(self) -> dict[str, float]:
        return {key: float(row.correct) for key, row in self.rows.items()}

    @property
    def rounds(self) -> dict[str, float]:
        return {key: float(row.rounds) for key, row in self.rows.items()}

    def accuracy(self) -> Interval:
        """The accuracy in %, with the Wilson interval."""
        right = sum(row.correct for row in self.rows.values())
        low, high = wilson_interval(right, self.n)
        return Interval(100 * right / self.n if self.n else 0.0, 100 * low, 100 * high)

    def mean(self, name: str) -> Interval:
        """The mean of `rounds`, `searches` or `tokens`."""
        return mean_interval([float(getattr(row, name)) for row in self.rows.values()])

    def where(self, keys: Sequence[str]) -> Results:
        """Those of some questions, by the id that a key ends with."""
        ids = set(keys)
        return Results({key: row for key, row in self.rows.items() if row.id in ids})


def read_evaluations(folders: Mapping[str, Path]) -> Results:
    """Results of several evaluations of one variant, by what tells them apart (a seed).

    Raises UserError for an evaluation that scored nothing.
    """
    rows: dict[str, QuestionResult] = {}
    for label, folder in folders.items():
        results = read_results(folder / RESULTS)
        if not results:
            raise UserError(f"{folder} holds no results. Remove it, and run the same command again.")
        rows |= {f"{label}/{key}": row for key, row in results.items()}
    return Results(rows)


def question_depths(path: Path) -> dict[str, int]:
    """Rounds that each question of a file needs however wide one searches, by id, where the file says."""
    depths = {}
    for _, row in read_json_lines(path):
        meta: Any = row.get("meta") if isinstance(row, Mapping) else None
        depth = meta.get("depth") if isinstance(meta, Mapping) else None
        if isinstance(depth, int) and not isinstance(depth, bool):
            depths[str(row["id"])] = depth
    return depths


def read_references(run: Path) -> list[tuple[int, dict[str, tuple[int, int]]]]:
    """(step, references by question) at the start of a run of RL and after each of its epochs.

    A run that went on from a checkpoint may have written an epoch twice: the later one holds.
    """
    path = run / REFERENCES_LOG
    references: dict[int, dict[str, tuple[int, int]]] = {}
    for number, row in read_json_lines(path):
        try:
            counts = {str(key): (int(c), int(s)) for key, (c, s) in row["references"].items()}
            references[int(row["step"])] = counts
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{path}, line {number} holds no references. Remove the line.") from None
    return sorted(references.items())
