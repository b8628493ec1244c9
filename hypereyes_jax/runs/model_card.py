"""The model card of a run's model: what it was made from and how, and what it was measured at."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypereyes_jax.files import read_json_object
from hypereyes_jax.runs.metrics_file import METRICS, read_metrics
from hypereyes_jax.runs.run_directory import CONFIG, refuse_other_run, refuse_others_config

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SHOWN = ("sft/loss", "rl/accuracy", "rl/tool_reward", "rl/rounds", "rl/invocations", "rl/loss")
_COLUMNS = {"accuracy": "right", "rounds": "rounds", "invocations": "searches", "kilo_tokens": "k tokens", "cas": "CAS"}


def model_card(run: Path, step: int | None = None) -> str:
    """The README.md of a run's model, as the hub shows it.

    Args:
      step: of the checkpoint that the weights are of; None = the end of the run.

    Raises UserError if `run` holds no run, or metrics of another.
    """
    record = read_json_object(run / CONFIG)
    refuse_others_config(run / CONFIG, record)
    settings = _object(record, "config")
    base = str(settings.get("checkpoint", ""))
    repository = base.split("@")[0]
    sections = [_front_matter(repository if _HUB_ID.fullmatch(repository) else None)]
    sections.append(f"# {run.resolve().name}\n\n{_origin(record, base, step)}")
    name = str(record.get("run", ""))
    sections.append(_results(run, name))
    sections.append(_last_step(run, name, step))
    sections.append(f"## Settings\n\n```json\n{json.dumps(settings, indent=2, ensure_ascii=False)}\n```")
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(base: str | None) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: image-text-to-text"]
    if base is not None:
        lines.append(f"base_model: {base}")
    return "\n".join([*lines, "tags:", "- hypereyes", "- visual-search-agent", "- qwen3_vl", "---"])


def _origin(record: Mapping[str, Any], base: str, step: int | None) -> str:
    versions = _object(record, "versions")
    made_by = f"`hypereyes {record.get('command')}` of hypereyes-jax {versions.get('hypereyes-jax', '')}".rstrip()
    at = "at the end of the run" if step is None else f"after step {step}"
    parts = [
        "A multimodal search agent in the manner of HyperEyes (arXiv 2605.07177): it crops what it wants to know of an "
        "image, searches for many things at once, and answers.",
        f"Trained from {base or 'an unnamed model'} with {made_by}; the weights are those {at}.",
        "It is prompted by the episode rules under Settings: without its tools it answers from memory.",
    ]
    return "\n\n".join(parts)


def _object(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _results(run: Path, name: str) -> str:
    """The rows of `metrics.json`, where the run of that id was evaluated."""
    path = run / "metrics.json"
    if not path.exists():
        return ""
    document = read_json_object(path)
    refuse_other_run(path, document.get("run", ""), name, run / CONFIG)
    stages = _object(document, "stages")
    rows = [
        (stage, split, row)
        for stage, splits in stages.items()
        for split, row in splits.items()
        if isinstance(row, dict)
    ]
    if not rows:
        return ""
    lines = [
        "## Evaluation",
        "",
        "Rounds, searches and thousands of tokens are means over n trajectories; CAS is the cost-aware score.",
        "",
        f"| stage | questions | n | {' | '.join(_COLUMNS.values())} | judge |",
        f"|{'---|' * (len(_COLUMNS) + 4)}",
    ]
    for stage, split, row in rows:
        values = [f"{row[name]:.3f}" if isinstance(row.get(name), int | float) else "" for name in _COLUMNS]
        lines.append(f"| {stage} | {split} | {row.get('n', '')} | {' | '.join(values)} | {row.get('judge', '')} |")
    return "\n".join(lines)


def _last_step(run: Path, name: str, step: int | None) -> str:
    """Means over the last steps of training, of the run of that id, that lie before the weights."""
    steps = [line for line in read_metrics(run / METRICS, name) if step is None or line.get("step", 0) <= step]
    if not steps:
        return ""
    last = steps[-10:]
    lines = [
        f"## Training\n\nMeans over the last {len(last)} of {len(steps)} logged steps:\n",
        "| metric | mean |",
        "|---|---|",
    ]
    for name in _SHOWN:
        values = [line[name] for line in last if isinstance(line.get(name), int | float)]
        if values:
            lines.append(f"| {name} | {sum(values) / len(values):.4g} |")
    return "\n".join(lines) if len(lines) > 3 else ""
