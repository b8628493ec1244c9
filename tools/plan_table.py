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
            f"{engine['slots']} slots each, peak {max(each):.1f} GiB"
        )
        if engine["decode_seconds"]:
            rollout += f", {_time(engine['decode_seconds'] * 1000)} ms a token"
    fits = "yes" if plan["fits"] else "no"
    least = f"{_time(train['step_seconds'])} s ({train['bound']})" if train["step_seconds"] else ""
    return (
        f"| `{plan['recipe']}` | `{plan['mesh']}` | {memory} | {100 * train['useful_share']:.0f} % "
        f"| {least} | {rollout} | {fits} |"
    )


def _time(number: float) -> str:
    return f"{number:.0f}" if number >= 1 else f"{number:.2g}"


def main(files: list[str]) -> None:
    print(HEAD)
    print("|---" * HEAD.count(" | ") + "|---|")
    for file in files:
        print(row(json.loads(Path(file).read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
