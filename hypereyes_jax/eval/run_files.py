"""The files of a run as a report and a table read them: every fault is a sentence that names the file and the place."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.metrics import StageSummary
from hypereyes_jax.files import read_json_object
from hypereyes_jax.runs.typed_json import ShapeError, from_json

METRICS, CONFIG = "metrics.json", "config.json"
BEST_RECORD = "best-model.json"  # of RL: which step's model `best-model/` is
REFERENCES_LOG = "references.jsonl"  # of RL: {"step", "references"} at the start and after each epoch


@dataclass(frozen=True)
class SearchCosts:
    """How the searches of an evaluation went: what is shown of `SearchMetrics.summary`."""

    searches: int
    success_rate: float | None
    cache_hits: int
    cost: float
    latency_p50: float | None
    latency_p90: float | None
    latency_p99: float | None


@dataclass(frozen=True)
class EngineUse:
    """What the engine's time went to, as shares: what is shown of `Timeline.utilisation`."""

    decode: float
    extend: float
    waiting: float
    idle: float


@dataclass(frozen=True)
class Cost:
    """What a quickstart took so far."""

    seconds: float = 0.0
    peak_gib: float = 0.0


@dataclass(frozen=True)
class BestModel:
    """Which model of an RL run was the most accurate in its periodic evaluation."""

    step: int
    eval_accuracy: float


@dataclass(frozen=True)
class RunConfig:
    """What `config.json` says of a run."""

    command: str = ""
    run: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    started: str = ""
    git: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    python: str = ""
    machine: str = ""
    devices: str = ""


def read_run_config(path: Path) -> RunConfig:
    """A run's `config.json`. Raises UserError if it can't be read or is another thing."""
    value = read_json_object(path)
    names = {each.name for each in fields(RunConfig)}
    return _parse(RunConfig, {name: each for name, each in value.items() if name in names}, path)


def read_stages(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The `stages` of a run's `metrics.json`: rows by stage and split, empty if it has none.

    Each row has the fields of `StageSummary`; where it has "search" and "engine", they have those of `SearchCosts` and
    `EngineUse`.

    Raises:
      UserError: it can't be read, or a row is another thing; names the place.
    """
    stages = read_json_object(path).get("stages", {})
    rows = _parse(dict[str, dict[str, dict[str, Any]]], stages, path, "stages")
    for stage, splits in rows.items():
        for split, row in splits.items():
            place = f"stages.{stage}.{split}"
            _check_part(StageSummary, row, path, place)
            shares = ("accuracy", "accuracy_low", "accuracy_high")
            if row["n"] < 0 or not all(0 <= row[name] <= 1 for name in shares):
                raise _damaged(path, f"{place}: accuracies must be shares between 0 and 1, and n not negative")
            if "search" in row:
                _check_part(SearchCosts, row["search"], path, f"{place}.search")
            if "engine" in row:
                _check_part(EngineUse, row["engine"], path, f"{place}.engine")
    return rows


def read_cost(path: Path) -> Cost:
    """A quickstart's `cost.json`. Raises UserError if it can't be read or is another thing."""
    return _parse(Cost, read_json_object(path), path)


def read_best(path: Path) -> BestModel:
    """A run's `best-model.json`. Raises UserError if it can't be read or is another thing."""
    return _parse(BestModel, read_json_object(path), path)


def _check_part(kind: Any, value: Any, path: Path, place: str) -> None:
    """Check the fields of `kind` that an object holds beside others."""
    if not isinstance(value, dict):
        raise _damaged(path, f"{place} must be an object")
    names = {each.name for each in fields(kind)}
    _parse(kind, {name: each for name, each in value.items() if name in names}, path, place)


def _parse(kind: Any, value: Any, path: Path, place: str = "") -> Any:
    try:
        return from_json(kind, value, place)
    except ShapeError as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}). Remove it and run the command that made it again.")
