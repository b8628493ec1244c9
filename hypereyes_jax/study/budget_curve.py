"""Accuracy against rounds of search: under forced budgets, and where the policy stops by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hypereyes_jax.eval.benchmark_play import read_summaries
from hypereyes_jax.eval.benchmark_run import BenchmarkSummary
from hypereyes_jax.files import write_atomic
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.study.render import to_svg
from hypereyes_jax.study.types import Chart, Point


def budget_name(name: str, budget: int) -> str:
    """The stage under which the results of a forced budget are filed."""
    return f"{name}-{budget}-rounds"


def budget_curves(
    summaries: Mapping[str, Sequence[BenchmarkSummary]], name: str, budgets: Sequence[int]
) -> dict[str, Chart]:
    """A chart for each benchmark, as the paper's Table 13 has it. Points are at the rounds that were really taken.

    Args:
      summaries: by stage, as `eval.benchmark_play.read_summaries` gives them.
      name: the stage in which the policy stopped by itself.
      budgets: those that were forced.
    """
    own = {each.benchmark: each for each in summaries.get(name, ())}
    charts = {}
    for benchmark, stopped in own.items():
        by_budget = [
            each
            for budget in budgets
            for each in summaries.get(budget_name(name, budget), ())
            if each.benchmark == benchmark
        ]
        series = (("forced budget", tuple(map(_point, by_budget))), ("own stop", (_point(stopped),)))
        charts[benchmark] = Chart(f"{name} on {benchmark}", "share right", series, "rounds a question")
    return charts


def write_budget_curves(directory: RunDirectory, name: str, budgets: Sequence[int]) -> list[Path]:
    """Draws the chart of each benchmark into a run's directory. Arguments as `budget_curves`."""
    paths = []
    for benchmark, chart in budget_curves(read_summaries(directory), name, budgets).items():
        path = directory.file(f"budgets-{name}-{benchmark}.svg")
        write_atomic(path, to_svg(chart))
        paths.append(path)
    return paths


def _point(summary: BenchmarkSummary) -> Point:
    return Point(summary.turns, summary.accuracy, summary.accuracy_low, summary.accuracy_high)
