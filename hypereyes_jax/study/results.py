"""What the runs of a study left on disk: results question by question, and the references of RL over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypereyes_jax.data.files import read_questions
from hypereyes_jax.env.actions import IMAGE_SEARCH
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark_run import QuestionResult, read_results
from hypereyes_jax.eval.metrics import wilson_interval
from hypereyes_jax.eval.records import TrajectoryRecord, read_records
from hypereyes_jax.eval.run_files import REFERENCES_LOG
from hypereyes_jax.files import read_json_lines
from hypereyes_jax.study.statistics import Interval, mean_interval

# Of `hypereyes eval CHECKPOINT --questions SOURCE`: every question's result, and the first trajectories.
RESULTS = "benchmark-model-questions.jsonl"
TRAJECTORIES = "trajectories-model-questions.jsonl"


@dataclass(frozen=True)
class Results:
    """Results of one variant over all its seeds and shuffles, keyed so that variants pair question by question.

    Answers to one question are alike, whatever the seed: intervals are over questions.
    """

    rows: Mapping[str, QuestionResult]
    copies: int = 1  # times that each result stands here: of the base model, one evaluation is that of every seed

    @property
    def n(self) -> int:
        return len(self.rows) // self.copies

    @property
    def correct(self) -> dict[str, float]:
        return {key: float(row.correct) for key, row in self.rows.items()}

    @property
    def rounds(self) -> dict[str, float]:
        return {key: float(row.rounds) for key, row in self.rows.items()}

    def accuracy(self) -> Interval:
        """The accuracy in %, with the Wilson interval; of several answers to a question, with a bootstrap's."""
        shares = self._by_question("correct")
        if len(shares) == self.n:
            right = round(sum(shares))
            low, high = wilson_interval(right, self.n)
            return Interval(100 * right / self.n if self.n else 0.0, 100 * low, 100 * high)
        return Interval(*(100 * each for each in mean_interval(shares)))

    def mean(self, name: str) -> Interval:
        """The mean of `rounds`, `searches` or `tokens`."""
        return mean_interval(self._by_question(name))

    def _by_question(self, name: str) -> list[float]:
        """Means over the answers to each question."""
        values: dict[str, list[float]] = {}
        for row in self.rows.values():
            values.setdefault(row.id, []).append(float(getattr(row, name)))
        return [sum(each) / len(each) for each in values.values()]

    def where(self, keys: Sequence[str]) -> Results:
        """Those of some questions, by the id that a key ends with."""
        ids = set(keys)
        return replace(self, rows={key: row for key, row in self.rows.items() if row.id in ids})


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
    return Results(rows, len(folders) if len(set(folders.values())) == 1 else 1)


def found_at_once(folder: Path, questions: Path) -> dict[str, float]:
    """How much of what a question needs to see in its pictures the first searching turn found, from 0 to 1, by id.

    Only of kept trajectories, and of questions that say which pictured things matter; empty where none was kept.
    """
    path = folder / TRAJECTORIES
    if not path.exists():
        return {}
    keys = {
        question.id: {question.meta["entities"][number] for number in question.meta["matter"]}
        for question in read_questions(questions)
        if question.images and question.meta.get("matter")
    }
    return {
        record.question_id: len(keys[record.question_id] & _named_first(record)) / len(keys[record.question_id])
        for record in read_records(path)
        if record.question_id in keys
    }


def _named_first(record: TrajectoryRecord) -> set[str]:
    """Keys of the entities whose pages the image searches of the first searching turn brought."""
    first = next((turn for turn in record.turns if turn.is_round), None)
    searches = [each for each in first.invocations if each.tool == IMAGE_SEARCH] if first else []
    return {hit.url.partition("://")[2] for search in searches for hit in search.hits}


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
