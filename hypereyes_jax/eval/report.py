"""`report.html`: one self-contained page about a run. It asks the network for nothing.

Text of models and of search results is hostile until proven otherwise. It enters the page in two ways only: through
Jinja's escaping, and as JSON that the scripts read and place as text nodes. A content security policy that names the
hashes of our own scripts backs both.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.panels import charts
from hypereyes_jax.eval.records import TrajectoryRecord, read_records
from hypereyes_jax.eval.rollout_files import TRAINING, read_rollouts, rollout_steps, sampled_steps
from hypereyes_jax.eval.run_files import (
    BEST_RECORD,
    CONFIG,
    METRICS,
    BestModel,
    RunConfig,
    read_best,
    read_run_config,
    read_stages,
)
from hypereyes_jax.eval.timeline import read_timeline
from hypereyes_jax.files import read_json_object, write_atomic
from hypereyes_jax.runs.metrics_file import read_metrics
from hypereyes_jax.runs.outputs import check_outputs, refuse_missing_run, refuse_no_page
from hypereyes_jax.runs.own_objects import read_objects
from hypereyes_jax.runs.run_directory import OBJECTS, refuse_other_run

_TEMPLATES = Path(__file__).parent / "templates"
_STAGE_NAMES = {"base": "Base", "sft": "SFT", "rl": "RL", TRAINING: "rollout"}
_SPLIT_NAMES = {"heldout": "held-out", "seen": "seen", "heldout_serial": "held-out, serial"}
_STOP_NAMES = {
    "answered": "wrong answer",
    "no_action": "neither call nor answer",
    "turn_limit": "out of turns",
    "truncated": "turn too long",
    "context_limit": "context full",
    "unreadable": "crop unreadable",
}


ENGINE_KINDS = ("decode", "extend", "waiting", "idle")  # what an engine's time goes to


@dataclass
class Report:
    """All that the page shows, as JSON-able values."""

    title: str
    run: RunConfig | None = None
    best: BestModel | None = None
    smoke: bool = False  # a run of so few steps and questions that its figures mean nothing
    objects: list[dict[str, Any]] = field(default_factory=list)  # a user's own reward, tools, ... with their hashes
    stages: list[dict[str, Any]] = field(default_factory=list)  # rows of the headline table
    cards: list[dict[str, Any]] = field(default_factory=list)
    panels: list[dict[str, Any]] = field(default_factory=list)
    further: list[dict[str, Any]] = field(default_factory=list)  # panels of the series no panel asks for
    failures: list[dict[str, Any]] = field(default_factory=list)
    timelines: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)  # searches and the engine's time, a row a stage
    images: list[str] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)


def write_report(source: Path, out: Path | None = None, *, questions: int = 40) -> Path:
    """Write the report of a run directory, or of one trajectory file.

    Args:
      out: the page; by default `report.html` in the directory, or beside the file with its name.
      questions: how many questions the trajectory viewer holds at most.

    Raises:
      UserError: there is nothing to report on, a file of the run is damaged, or the page can't be written.
    """
    refuse_missing_run(source)
    report = collect(source, questions)
    out = out or (source / "report.html" if source.is_dir() else source.with_suffix(".html"))
    check_outputs([out], [source] if source.is_file() else [path for path in source.iterdir() if path.name != out.name])
    refuse_no_page(out)
    # a lone surrogate can come out of a tokenizer, and can't be encoded
    write_atomic(out, render(report).encode("utf-8", "replace"))
    return out


def collect(source: Path, questions: int = 40) -> Report:
    """Read everything a report shows. See `write_report`."""
    if source.is_file():
        return records_report(list(read_records(source)), source.resolve().name, questions)
    report = Report(title=source.resolve().name)
    if (source / CONFIG).exists():
        report.run = read_run_config(source / CONFIG)
        report.smoke = report.run.config.get("smoke") is True
    if (source / BEST_RECORD).exists():
        report.best = read_best(source / BEST_RECORD)
    run = report.run.run if report.run is not None else ""
    if (source / METRICS).exists():
        refuse_other_run(source / METRICS, read_json_object(source / METRICS).get("run", ""), run, source / CONFIG)
        _add_stages(report, read_stages(source / METRICS))
    steps = read_metrics(source / "metrics.jsonl", run)
    report.panels, report.further = charts(steps)
    report.objects = read_objects(source / OBJECTS)
    _add_costs(report, steps)
    # training first: the others are folded away
    paths = sorted(source.glob("timeline*.json"), key=lambda path: (path.name != "timeline-rl.json", path.name))
    report.timelines = [read_timeline(path) for path in paths]
    records = [record for path in sorted(source.glob("trajectories-*.jsonl")) for record in read_records(path)]
    _add_trajectories(report, records, questions)
    _add_rollouts(report, source, questions)
    if not (report.stages or report.panels or report.further or report.questions):
        raise UserError(
            f"{source} holds nothing to report on: no metrics.json, metrics.jsonl or trajectories-*.jsonl. "
            "Is this the directory of a run?"
        )
    return report


def records_report(records: Sequence[TrajectoryRecord], title: str, questions: int = 40) -> Report:
    """A report of trajectories alone."""
    report = Report(title=title)
    _add_trajectories(report, records, questions)
    return report


def render(report: Report) -> str:
    """The page as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [(_TEMPLATES / name).read_text(encoding="utf-8") for name in ("charts.js", "timeline.js", "viewer.js")]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    page = {
        "panels": report.panels,
        "further": report.further,
        "timelines": report.timelines,
        "images": report.images,
        "questions": report.questions,
    }
    return environment.get_template("report.html.jinja").render(
        report=report,
        engine_kinds=ENGINE_KINDS,
        page=page,
        settings=json.dumps(report.run.config if report.run else {}, indent=2, ensure_ascii=False),
        style=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        scripts=scripts,
        script_hashes=" ".join(f"'sha256-{digest}'" for digest in hashes),
    )


def stage_name(stage: str) -> str:
    """The stage as readers know it; one that is not known goes by its own name."""
    return _STAGE_NAMES.get(stage, stage)


def split_name(split: str) -> str:
    """The split as readers know it; one that is not known goes by its own name."""
    return _SPLIT_NAMES.get(split, split)


def _add_stages(report: Report, stages: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    order = {name: i for i, name in enumerate(_SPLIT_NAMES)}
    for stage, splits in stages.items():
        for split, summary in sorted(splits.items(), key=lambda item: order.get(item[0], len(order))):
            row = {"stage": stage_name(stage), "key": stage, "split": split_name(split), **summary}
            report.stages.append(row)
            report.failures.append(_failures(row))
    heldout = [(stage, splits["heldout"]) for stage, splits in stages.items() if "heldout" in splits]
    if not heldout:
        return
    for label, name, unit, note in (
        ("Accuracy", "accuracy", "%", "held-out questions answered right"),
        ("Tool rounds", "rounds", "", "model turns that searched, a question"),
        ("Cost-aware score", "cas", "", "accuracy against tokens and rounds"),
    ):
        steps = [{"key": stage, "stage": stage_name(stage), "value": _number(s[name], unit)} for stage, s in heldout]
        report.cards.append({"label": label, "steps": steps, "note": note})
    for stage, splits in stages.items():
        if "heldout" in splits and "heldout_serial" in splits:
            wide, serial = splits["heldout"], splits["heldout_serial"]
            steps = [
                {"key": "base", "stage": "one at a time", "value": _number(serial["rounds"], "")},
                {"key": stage, "stage": "in parallel", "value": _number(wide["rounds"], "")},
            ]
            note = f"rounds of the same policy; accuracy {_number(serial['accuracy'], '%')} and " + _number(
                wide["accuracy"], "%"
            )
            report.cards.append({"label": "What width buys", "steps": steps, "note": note})


def _failures(row: Mapping[str, Any]) -> dict[str, Any]:
    """How the questions of a stage ended: right, each kind of wrong, and what was not scored."""
    n = max(row["n"], 1)
    wrong = row.get("wrong_by_stop", {})
    parts = [{"kind": "right", "name": "right", "count": row["n"] - sum(wrong.values())}]
    parts += [{"kind": stop, "name": _STOP_NAMES.get(stop, stop), "count": count} for stop, count in wrong.items()]
    for part in parts:
        part["share"] = 100 * part["count"] / n
    notes = {
        "malformed_calls": "malformed calls",
        "failed_searches": "failed searches",
        "masked_infrastructure": "not scored: search down",
        "masked_judge": "not scored: judge down",
    }
    return {
        "stage": row["stage"],
        "split": row["split"],
        "parts": [part for part in parts if part["count"]],
        "notes": [f"{row[name]} {text}" for name, text in notes.items() if row.get(name)],
    }


def _add_costs(report: Report, steps: Sequence[Mapping[str, Any]]) -> None:
    """A row for each evaluation that recorded them; one for RL: its searches so far, and the mean over its steps."""
    for row in report.stages:
        if "search" in row and "engine" in row:
            report.costs.append({**{k: row[k] for k in ("stage", "key", "split")}, **row["search"], **row["engine"]})
    searches = [f"rl/search_{name}" for name in ("searches", "cache_hits", "cost")]
    columns = [*(f"rl/engine_{kind}" for kind in ENGINE_KINDS), *searches]
    rows = [row for row in steps if all(row.get(name) is not None for name in columns)]
    if not rows:
        return
    last = rows[-1]
    names = ("searches", "cache_hits", "cost", "success_rate", "latency_p50", "latency_p90", "latency_p99")
    report.costs.append(
        {
            "stage": "RL",
            "key": "rl",
            "split": f"{len(rows)} steps of training",
            **{name: last.get(f"rl/search_{name}") for name in names},
            **{kind: fmean(row[f"rl/engine_{kind}"] for row in rows) for kind in ENGINE_KINDS},
        }
    )


def _add_trajectories(report: Report, records: Sequence[TrajectoryRecord], limit: int) -> None:
    grouped: dict[str, list[TrajectoryRecord]] = defaultdict(list)
    for record in records:
        grouped[record.question_id].append(record)
    numbers: dict[str, int] = {}
    order = {stage: i for i, stage in enumerate([row["key"] for row in report.stages] or _STAGE_NAMES)}
    for group in sorted(grouped.values(), key=_interest)[:limit]:
        group.sort(key=lambda record: (order.get(record.stage, len(order)), record.split))
        first = group[0]
        question = {
            "id": first.question_id,
            "text": first.question,
            "kind": first.kind,
            "split": split_name(first.split.removesuffix("_serial")),
            "answers": list(first.answers),
            "images": [numbers.setdefault(image, len(numbers)) for image in first.images],
            "runs": [_run(record) for record in group],
        }
        report.questions.append(question)
    report.images = list(numbers)


def _add_rollouts(report: Report, source: Path, limit: int) -> None:
    """Groups of training rollouts that were kept, from steps spread over the run; the best of a group first."""
    numbers = {image: number for number, image in enumerate(report.images)}
    for step, path in sampled_steps(rollout_steps(source), limit):
        groups: dict[str, list[TrajectoryRecord]] = defaultdict(list)
        for record in read_rollouts(path):
            groups[record.question_id].append(record)
        for group in groups.values():
            first = group[0]
            group.sort(key=lambda record: -_reward(record))
            report.questions.append(
                {
                    "id": f"{first.question_id}, step {step}",
                    "text": first.question,
                    "kind": first.kind,
                    "split": f"training, step {step}",
                    "answers": list(first.answers),
                    "images": [numbers.setdefault(image, len(numbers)) for image in first.images],
                    "runs": [_run(record) for record in group],
                }
            )
    report.images = list(numbers)


def _reward(record: TrajectoryRecord) -> float:
    """The reward of a rollout of training; what has none is last."""
    reward = record.extra.get("reward")
    return reward if isinstance(reward, (int, float)) and not isinstance(reward, bool) else -math.inf


def _interest(group: Sequence[TrajectoryRecord]) -> tuple[int, bool, int, str]:
    """Sort key: answered by most stages, then those where training made a difference, then the most searched."""
    verdicts = [record.correct for record in group]
    changed = any(verdicts) and not all(verdicts)
    most = max(record.invocations for record in group)
    return -len({(r.stage, r.split) for r in group}), not changed, -most, group[0].question_id


def _run(record: TrajectoryRecord) -> dict[str, Any]:
    value = record.to_json()
    for name in ("images", "question", "question_id", "answers", "kind"):
        del value[name]  # the same for all runs of a question
    serial = record.split.endswith("_serial")
    return {
        **value,
        "key": record.stage,
        "name": stage_name(record.stage) + (", serial" if serial else ""),
        "worth": _worth(record),
        "rounds": record.rounds,
        "invocations": record.invocations,
    }


def _worth(record: TrajectoryRecord) -> list[str]:
    """What a rollout of training earned, in words: reward, its part for the tools, advantage."""
    names = {"reward": "reward", "reward_tool": "tool reward", "advantage": "advantage"}
    values = {text: record.extra.get(name) for name, text in names.items()}
    return [
        f"{text} {value:+.3f}"
        for text, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]


def _number(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.0f} %"
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
