"""How many of the positions that a step computes hold tokens: rows of one length, and of a few to choose from.

    python benchmarks/packing.py            # half a minute, numpy and scipy only

A step of 256 trajectories on 64 data shards, one row each a micro-batch, that 8 processes feed (`--processes`): each
has played 32, whole groups of 8; all take one length, and the one that needs most micro-batches decides. "own": each
packs what it played; "balanced": they pack each other's samples where that makes the step shorter (`learner.balance`).

Lengths are log-normal (of logarithm's standard deviation 0.5, `--spread`) and end at 38,912 tokens, the longest that
the paper's recipe trains on. No row is shorter than the longest trajectory, which bounds the share from above where
lengths spread more: "bound" is that of 64 rows as long as the longest. Rows are of one length ("one"), of the three
that the recipe has by default ("shorter"), of these and the two longer ones that it has on meshes that hold them
("longer"), or of every whole thousand, a program each ("fine"). The last line is JSON: of each mean length, the share
of tokens among computed positions, mean and least over steps, and the share of samples that move.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.learner.balance import Balance, balance, moves, stay
from hypereyes_jax.train.sizes import sizes_of

LONGEST, *SHORTER = sizes_of(RECIPES["hypereyes_30b_rl"]).row_lengths
LENGTHS = {
    "one": (LONGEST,),
    "shorter": (LONGEST, *SHORTER),
    "longer": (LONGEST, *SHORTER, 45_056, 57_344),
    "fine": tuple(range(16_384, 61_441, 1024)),
}
SAMPLES, ROWS, GROUP = 256, 64, 8


def parts_of(lengths: list[int], processes: int) -> list[list[int]]:
    """Groups are dealt to the processes in turn, as the training loop does."""
    groups = [lengths[first : first + GROUP] for first in range(0, len(lengths), GROUP)]
    return [[n for group in groups[process::processes] for n in group] for process in range(processes)]


def share(parts: list[list[int]], plan: Balance) -> float:
    """Tokens a computed position."""
    return sum(map(sum, parts)) / (plan.micro_batches * ROWS * plan.row_length)


def bound(lengths: list[int]) -> float:
    """The most that any rows of one length reach, where there is one for each shard of devices."""
    return min(1.0, sum(lengths) / ROWS / max(lengths))


def drawn(mean: float, seed: int, spread: float) -> list[int]:
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(mean) - spread**2 / 2, spread, SAMPLES))
    return [int(n) for n in np.clip(lengths, 500, LONGEST)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--means", type=int, nargs="+", default=[6_000, 10_000, 14_000])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--processes", type=int, default=8)
    args = parser.parse_args()
    out: dict[int, dict[str, dict[str, float]]] = {}
    for mean in args.means:
        steps = [parts_of(drawn(mean, seed, args.spread), args.processes) for seed in range(args.steps)]
        limits = [bound([n for part in parts for n in part]) for parts in steps]
        out[mean] = {"bound": {"mean": float(np.mean(limits)), "least": min(limits)}}
        for name, choices in LENGTHS.items():
            for how, planned in (("own", stay), ("balanced", balance)):
                plans = [planned(parts, choices, ROWS // args.processes) for parts in steps]
                shares = [share(parts, plan) for parts, plan in zip(steps, plans, strict=True)]
                moved = float(np.mean([moves(plan.owners) / SAMPLES for plan in plans]))
                out[mean][f"{name} {how}"] = {"mean": float(np.mean(shares)), "least": min(shares), "moved": moved}
        print(f"mean {mean:,}:")
        for name, each in out[mean].items():
            move = f", {100 * each['moved']:.0f} % of the samples move" if each.get("moved") else ""
            print(f"  {name}: {100 * each['mean']:.1f} % (least {100 * each['least']:.1f} %){move}")
    print(json.dumps(out))


if __name__ == "__main__":
    main()
