"""Makes the two tables of docs/plan.md from what `hypereyes plan` wrote: what fits, and whole steps of RL.

hypereyes plan hypereyes_30b_rl --mesh v5p_64 --out plans/30b_rl-v5p_64.json      (one for each row)
python tools/plan_table.py plans/*.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = (
    "| recipe | mesh | training step, GiB a device (weights + moments + gradients + batch + activations = peak) "
    "| FLOPs that are useful | a step takes at least | rollout engine | fits |"
)

STEPS_HEAD = (
    "| recipe | mesh | prefill | generation | searches | training (tokens among its positions) | weights | host "
    "| a step at least | forecast | device-hours, at least and forecast | rollouts at once | tokens a second at most |"
)


def row(plan: dict[str, Any]) -> str:
    """One line of the table."""
    train = plan["train"]
    program = train["program"]
    peak = program["arguments_gib"] + program["outputs_gib"] + program["temporaries_gib"]
    names = ("weights", "optimizer", "gradients", "batch", "activations")
    digits = 1 if peak >= 10 else 2
    parts = " + ".join(f"{train[f'{name}_gib']:.{digits}f}" for name in names)
    limit = f" of {plan['capacity_gib']:.0f}" if plan["capacity_gib"] else ""  # a CPU's is not known
    memory = f"{parts} = {peak:.{digits}f}{limit}" if not program["error"] else program["error"]
    engine = plan["engine"]
    if engine is None:
        rollout = ""
    elif not engine["replicas"]:
        rollout = "no replica holds the weights"
    else:
        each = [p["arguments_gib"] + p["outputs_gib"] + p["temporaries_gib"] for p in engine["programs"]]
        rollout = (
            f"{engine['replicas']} x {engine['devices']} device{'s' * (engine['devices'] > 1)}, "
            f"{engine['slots']} slots"
            + (f" of {engine['cache_tokens']:,} tokens together" if engine["cache_tokens"] else "")
            + f" each, peak {max(each):.1f} GiB"
        )
        if engine["decode_seconds"]:
            rollout += f", {_time(engine['decode_seconds'] * 1000)} ms a token"
    fits = "yes" if plan["fits"] else "no"
    least = f"{_time(train['step_seconds'])} s ({train['bound']})" if train["step_seconds"] else ""
    return (
        f"| `{plan['recipe']}` | `{plan['mesh']}` | {memory} | {100 * train['useful_share']:.0f} % "
        f"| {least} | {rollout} | {fits} |"
    )


def steps_row(plan: dict[str, Any]) -> str:
    """One line of the table of whole steps."""
    step, engine = plan["step"], plan["engine"]
    seconds, at_once = step["seconds"], engine["replicas"] * engine["slots"]
    parts = " | ".join(_seconds(seconds[name]) for name in ("prefill", "generation", "search"))
    return (
        f"| `{plan['recipe']}` | `{plan['mesh']}` | {parts} "
        f"| {_seconds(seconds['training'])} ({100 * step['packed_share']:.0f} %) | {_seconds(seconds['sync'])} "
        f"| {_seconds(seconds['host'])} | {_seconds(seconds['total'])} | {_seconds(step['forecast_seconds']['total'])} "
        f"| {step['device_hours']:.2f}, {step['forecast_device_hours']:.2f} | {at_once} "
        f"| {at_once / engine['decode_seconds']:,.0f} |"
    )


def _seconds(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def _time(number: float) -> str:
    return f"{number:.0f}" if number >= 1 else f"{number:.2g}"


def main(files: list[str]) -> None:
    plans = [json.loads(Path(file).read_text()) for file in files]
    whole = [plan for plan in plans if plan["step"] and plan["engine"] and plan["engine"]["replicas"]]
    for head, line, shown in ((HEAD, row, plans), (STEPS_HEAD, steps_row, whole)):
        print(head)
        print("|---" * head.count(" | ") + "|---|")
        for plan in shown:
            print(line(plan))
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
