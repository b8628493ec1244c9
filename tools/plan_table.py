"""Makes the table of docs/plan.md from what `hypereyes plan` wrote.

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


def row(plan: dict[str, Any]) -> str:
    """One line of the table."""
    train = plan["train"]
    program = train["program"]
    peak = program["arguments_gib"] + program["outputs_gib"] + program["temporaries_gib"]
    names = ("weights", "optimizer", "gradients", "batch", "activations")
    parts = " + ".join(f"{train[f'{name}_gib']:.1f}" for name in names)
    memory = f"{parts} = {peak:.1f} of {plan['capacity_gib']:.0f}" if not program["error"] else program["error"]
    engine = plan["engine"]
    if engine is None:
        rollout = ""
    elif not engine["replicas"]:
        rollout = "no replica holds the weights"
    else:
        each = [p["arguments_gib"] + p["outputs_gib"] + p["temporaries_gib"] for p in engine["programs"]]
        rollout = (
            f"{engine['replicas']} x {engine['devices']} devices, {engine['slots']} slots each, "
            f"peak {max(each):.1f} GiB, {1000 * engine['decode_seconds']:.0f} ms a token"
        )
    fits = "yes" if plan["fits"] else "no"
    return (
        f"| `{plan['recipe']}` | `{plan['mesh']}` | {memory} | {100 * train['useful_share']:.0f} % "
        f"| {train['step_seconds']:.0f} s ({train['bound']}) | {rollout} | {fits} |"
    )


def main(files: list[str]) -> None:
    print(HEAD)
    print("|---" * HEAD.count(" | ") + "|---|")
    for file in files:
        print(row(json.loads(Path(file).read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
