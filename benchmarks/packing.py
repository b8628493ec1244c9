"""How many of the positions that a step computes hold tokens: rows of one length, and of a few to choose from.

    python benchmarks/packing.py            # half a minute, numpy only

A step of 256 trajectories on 64 data shards, one row each a micro-batch, that 8 processes feed (`--processes`): each
packs its own 32, whole groups of 8; all take one length, and the one that needs most micro-batches decides. Lengths are
log-normal (of logarithm's standard deviation 0.5, `--spread`) and end at 38,912 tokens, the longest that the paper's
recipe trains on. No row is shorter than the longest trajectory, which bounds the share from above where lengths spread
more: "bound" is that of 64 rows as long as the longest. `CHOICES` are rows to choose from at each step
(`PackConfig.row_tokens`), `FINE` many more of them, a program each. The last line is JSON: of each mean length, the
share of tokens among computed positions, mean and least over steps.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from hypereyes_jax.learner.packing import fewest_positions, micro_batches

LONGEST = 38_912
CHOICES = (20_480, 23_552, 26_624, 29_696, 33_792, 38_912, 41_984, 45_056, 49_152, 53_248, 57_344, 61_440)
FINE = tuple(range(16_384, 61_441, 1024))
SAMPLES, ROWS, GROUP = 256, 64, 8


def share(lengths: list[int], choices: tuple[int, ...], processes: int = 1) -> float:
    """Tokens a computed position. Groups are dealt to the processes in turn, as the training loop does."""
    groups = [lengths[first : first + GROUP] for first in range(0, len(lengths), GROUP)]
    parts = [[n for group in groups[process::processes] for n in group] for process in range(processes)]
    needs = [micro_batches(part, choices, ROWS // processes) for part in parts]
    length = fewest_positions(needs)
    return sum(lengths) / (max(each[length] for each in needs) * ROWS * length)


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
    out = {}
    for mean in args.means:
        steps = [drawn(mean, seed, args.spread) for seed in range(args.steps)]
        shares = {
            name: [share(lengths, choices, args.processes) for lengths in steps]
            for name, choices in (("one", (LONGEST,)), ("chosen", CHOICES), ("fine", FINE))
        }
        shares["bound"] = [bound(lengths) for lengths in steps]
        out[mean] = {name: {"mean": float(np.mean(each)), "least": min(each)} for name, each in shares.items()}
        print(
            f"mean {mean:6,}: rows of {LONGEST:,} {100 * out[mean]['one']['mean']:.1f} %, chosen of {len(CHOICES)} "
            f"lengths {100 * out[mean]['chosen']['mean']:.1f} % (least {100 * out[mean]['chosen']['least']:.1f} %), of "
            f"{len(FINE)} {100 * out[mean]['fine']['mean']:.1f} %, bound {100 * out[mean]['bound']['mean']:.1f} %"
        )
    print(json.dumps(out))


if __name__ == "__main__":
    main()
