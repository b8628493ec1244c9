"""What a command does with an evaluation: into the run's files, and as a table at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark import Evaluation
from hypereyes_jax.eval.records import record_judged, write_records
from hypereyes_jax.eval.report import split_name, stage_name
from hypereyes_jax.eval.run_files import METRICS, read_stages
from hypereyes_jax.files import read_json_object, write_json
from hypereyes_jax.runs.run_directory import RunDirectory

SMOKE = "a smoke run: it shows that every stage works, and its figures mean nothing"
MOST_MASKED = 0.05  # of the questions of an evaluation that is filed


def save_evaluation(
    run: RunDirectory,
    stage: str,
    split: str,
    evaluation: Evaluation,
    *,
    judge: str,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
    own: Mapping[str, float] | None = None,
    records: int = 200,
) -> None:
    """Put the summary at `stages.STAGE.SPLIT` of `metrics.json`, beside what is there, and write the trajectories.

    Args:
      judge: name of the judge; recorded with the summary and with each trajectory.
      costs: saved beside the summary: {"search": SearchMetrics.summary(), "engine": Timeline.utilisation()}.
      own: means of a user's metrics, saved in the summary.
      records: trajectories written at most (they hold their images).

    Raises:
      UserError: more than a twentieth of the questions could not be scored, because searches or the judge failed. That
        is not a finding, and nothing is recorded: the same command evaluates them again.
    """
    masked = evaluation.summary.masked_infrastructure + evaluation.summary.masked_judge
    count = len(evaluation.judged)
    if masked and (masked == count or masked > max(1, MOST_MASKED * count)):
        raise UserError(
            f"{masked} of {count} questions of {stage}, {split} could not be scored "
            f"({evaluation.summary.masked_infrastructure} because searches failed, "
            f"{evaluation.summary.masked_judge} because the judge did). No result was recorded: fix the services, then "
            "run the same command again."
        )
    rows = [
        record_judged(judgement, stage=stage, split=split, judge=judge) for judgement in evaluation.judged[:records]
    ]
    write_records(run.file(f"trajectories-{stage}-{split}.jsonl"), rows)
    metrics = run.file(METRICS)
    document: dict[str, Any] = read_json_object(metrics) if metrics.exists() else {}
    if document:
        read_stages(metrics)  # a damaged one must not be added to
        run.refuse_other_run(metrics, document.get("run", ""))
    document["run"] = run.run
    document.setdefault("stages", {}).setdefault(stage, {})[split] = {
        **evaluation.summary.to_json(),
        **(own or {}),
        "judge": judge,
        **(costs or {}),
    }
    write_json(metrics, document)


def evaluated(run: RunDirectory, stage: str, split: str) -> bool:
    """Whether `save_evaluation` was done for it: a run that continues need not do it again.

    Raises UserError for a `metrics.json` that is damaged, or another run's.
    """
    metrics = run.file(METRICS)
    if not os.path.lexists(metrics):
        return False
    run.refuse_other_run(metrics, read_json_object(metrics).get("run", ""))
    return split in read_stages(metrics).get(stage, {})


def results_table(stages: Mapping[str, Mapping[str, Mapping[str, Any]]], smoke: bool = False) -> Table:
    """The `stages` of `metrics.json` as a table that fits 80 columns; what was not scored is said below it.

    Args:
      smoke: of a run whose figures mean nothing, which is said above it.
    """
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("stage", "questions"):
        table.add_column(heading, no_wrap=True)
    for heading in ("right %", "95 %", "rounds", "searches", "k tok", "CAS", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    if smoke:
        table.title = SMOKE
    masked = 0
    for stage, splits in stages.items():
        for split, row in splits.items():
            masked += row["masked_infrastructure"] + row["masked_judge"]
            table.add_row(
                stage_name(stage),
                split_name(split),
                f"{100 * row['accuracy']:.1f}",
                f"{100 * row['accuracy_low']:.0f}-{100 * row['accuracy_high']:.0f}",
                f"{row['rounds']:.2f}",
                f"{row['invocations']:.2f}",
                f"{row['kilo_tokens']:.2f}",
                f"{row['cas']:.1f}",
                str(row["n"]),
            )
    if masked:
        table.caption = f"not scored, because the model, a search or the judge failed: {masked}"
    return table


def costs_table(stages: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """How the searches of each evaluation went, and what the engine's time went to; fits 80 columns."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("stage", "questions"):
        table.add_column(heading, no_wrap=True)
    for heading in ("searches", "ok %", "p50 s", "p99 s", "hits", "$", "busy", "wait"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage, splits in stages.items():
        for split, row in splits.items():
            search, engine = row.get("search"), row.get("engine")
            if search is None or engine is None:
                continue
            table.add_row(
                stage_name(stage),
                split_name(split),
                str(search["searches"]),
                _figure(search["success_rate"], "{:.1%}").rstrip("%"),
                _figure(search["latency_p50"], "{:.3f}"),
                _figure(search["latency_p99"], "{:.3f}"),
                str(search["cache_hits"]),
                f"{search['cost']:.2f}",
                f"{100 * (engine['decode'] + engine['extend']):.0f}",
                f"{100 * engine['waiting']:.0f}",
            )
    table.caption = "hits: answered from the store; busy, wait: % of the engine's time at work, waiting for searches"
    return table


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
