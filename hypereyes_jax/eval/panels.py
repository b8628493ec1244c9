"""The charts of a report: which series of a run's metrics stand together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Panel:
    """A chart of series over steps; shown when at least one of its series was logged."""

    title: str
    series: Mapping[str, str]  # metric -> label
    note: str
    unit: str = ""  # "%" multiplies by 100
    stacked: bool = False


PANELS = (
    Panel("Accuracy", {"rl/accuracy": "training rollouts", "rl/heldout_accuracy": "held-out"}, "share right", "%"),
    Panel("Tool rounds", {"rl/rounds": "a rollout", "rl/reference_rounds": "TRACE reference"}, "turns that searched"),
    Panel(
        "Searches",
        {"rl/invocations": "a rollout", "rl/reference_invocations": "TRACE reference"},
        "images and queries looked up",
    ),
    Panel("Reward", {"rl/reward": "total", "rl/reward_tool": "tool efficiency"}, "mean of the rollouts of a step"),
    Panel(
        "References tightened",
        {"rl/references_tightened": "questions tightened"},
        "references only ever move down",
    ),
    Panel(
        "Where a step's time goes",
        {
            "rl/seconds_generation": "generation",
            "rl/seconds_search": "waiting for search",
            "rl/seconds_judging": "judging",
            "rl/seconds_waiting": "waiting for other processes",
            "rl/seconds_teacher": "teacher",
            "rl/seconds_packing": "packing",
            "rl/seconds_training": "training",
            "rl/seconds_sync": "weight sync",
        },
        "seconds",
        stacked=True,
    ),
    Panel(
        "The engine's time",
        {
            "rl/engine_decode": "decoding",
            "rl/engine_extend": "reading",
            "rl/engine_waiting": "waiting for search",
            "rl/engine_idle": "idle",
        },
        "share of the generation of a step",
        "%",
        stacked=True,
    ),
    Panel(
        "Search latency",
        {"rl/search_latency_p50": "median", "rl/search_latency_p90": "p90", "rl/search_latency_p99": "p99"},
        "seconds, of all searches sent so far",
    ),
    Panel("SFT loss", {"sft/loss": "training", "sft/validation_loss": "validation"}, "nats a token"),
)

_SPENT, _PRICE, _TARGET = "rl/spent_", "rl/price_", "rl/target_"


def charts(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(the charts of the panels, those of the series that no panel asks for), JSON-able.

    Args:
      rows: the lines of a `metrics.jsonl`.
    """
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            if "/" in name and isinstance(value, (int, float)):
                series[name].append((row["step"], value))
    panels, used_names = [], set[str]()
    for panel in (*PANELS, *_budget_panels(sorted(series))):
        names = [name for name in panel.series if name in series]
        used_names.update(names)
        if names:
            lines = [{"label": panel.series[name], "points": series[name]} for name in names]
            panels.append(
                {"title": panel.title, "note": panel.note, "unit": panel.unit, "stacked": panel.stacked, "lines": lines}
            )
    further = [
        {"title": name, "note": "", "unit": "", "stacked": False, "lines": [{"label": name, "points": series[name]}]}
        for name in sorted(series.keys() - used_names)
    ]
    return panels, further


def _budget_panels(names: Sequence[str]) -> list[Panel]:
    """What was spent of each resource with a budget, beside its target; and the prices of all."""
    resources = [name.removeprefix(_PRICE) for name in names if name.startswith(_PRICE)]
    panels = [
        Panel(
            f"Budget: {name.replace('_', ' ')}",
            {_SPENT + name: "spent", _TARGET + name: "target"},
            "mean of the rollouts of a step",
        )
        for name in resources
    ]
    prices = {_PRICE + name: name.replace("_", " ") for name in resources}
    return [*panels, Panel("Prices of the budget", prices, "reward units, taken for each unit that a rollout spends")]
