"""What smaller keys, values and weights do to a sampler's log-probs, on the shipped weights and real episodes.

    python benchmarks/sampler_precision.py                       # the shipped base model and teacher, some minutes
    python benchmarks/sampler_precision.py --checkpoint DIR      # another model of the miniature world

The same questions are played with the same seeds on a float32, a bfloat16 and an int8 cache, with weights in int8, and
with both in int8. Random numbers are those
of the request, so rollouts go alike until a log-prob's error moves a draw across the border between two tokens.
Log-probs (of the sampled tokens, over the full vocabulary, at the sampling temperature) are compared up to there. A
second float32 engine of another number of slots shows what rounding alone does.

The last line is JSON: for each of them mean and largest absolute error, the 99th percentile, and the share of rollouts
that are the same token for token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hypereyes_jax import miniature
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.eval.policy import load_policy, runner
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.rollout.cache.kv import bytes_per_token
from hypereyes_jax.train.sizes import MINIATURE_RL

ENGINES: dict[str, dict[str, Any]] = {
    "float32, half the slots": {},
    "bfloat16 cache": {"kv": "bfloat16"},
    "int8 cache": {"kv": "int8"},
    "int8 weights": {"weights": "int8"},
    "int8 cache and weights": {"kv": "int8", "weights": "int8"},
}


def play(checkpoint: Path, changes: dict[str, Any], slots: int, questions: int) -> tuple[list[Trajectory], int]:
    """(trajectories, bytes of a token in the cache)"""
    world = World.load()
    policy = load_policy(checkpoint, replace(replace(MINIATURE_RL, slots=slots).engine(), **changes))
    run = runner(policy, WorldBackend(world), miniature.EPISODE, MINIATURE_RL.sampling(), seed=1000)
    asked = world_questions(world, "heldout", questions, 1000, crowding=0.0)

    async def rollouts() -> list[Trajectory]:
        return list(await run(asked))

    return asyncio.run(rollouts()), bytes_per_token(policy.engines.all[0].config, changes.get("kv", "float32"))


def compare(exact: list[Trajectory], other: list[Trajectory]) -> tuple[np.ndarray, float]:
    """(absolute errors of the log-probs that can be compared, share of equal rollouts)"""
    errors, same = [], 0
    for a, b in zip(exact, other, strict=True):
        equal = len(a.chunks) == len(b.chunks)
        for x, y in zip(a.chunks, b.chunks, strict=False):
            common = min(len(x.tokens), len(y.tokens))
            differ = np.flatnonzero(x.tokens[:common] != y.tokens[:common])
            count = int(differ[0]) if len(differ) else common
            if isinstance(x, SampledChunk) and isinstance(y, SampledChunk):
                errors.append(np.abs(x.logp_full[:count] - y.logp_full[:count]))
            if count < max(len(x.tokens), len(y.tokens)):
                equal = False
                break
        same += equal
    return np.concatenate(errors), same / len(exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="instead of the shipped base model and teacher")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--slots", type=int, default=32)
    args = parser.parse_args()
    assets = Path(str(resources.files("hypereyes_jax.assets")))
    models = {"base": assets / "base", "teacher": assets / "teacher"}
    if args.checkpoint is not None:
        models = {args.checkpoint.name: args.checkpoint}
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name, checkpoint in models.items():
        began = time.perf_counter()
        exact, size = play(checkpoint, {}, args.slots, args.questions)
        tokens = sum(trajectory.sampled_tokens for trajectory in exact)
        print(f"{name}: {len(exact)} rollouts, {tokens} tokens sampled; float32 takes {size} bytes a token")
        out[name] = {}
        for label, changes in ENGINES.items():
            slots = args.slots if changes else args.slots // 2
            other, size = play(checkpoint, changes, slots, args.questions)
            errors, same = compare(exact, other)
            out[name][label] = {
                "mean": float(errors.mean()),
                "p99": float(np.quantile(errors, 0.99)),
                "max": float(errors.max()),
                "same_rollouts": same,
                "tokens": len(errors),
            }
            row = out[name][label]
            print(
                f"  {label:24} {size:6} bytes a token; log-prob error mean {row['mean']:.2g}, p99 {row['p99']:.2g}, "
                f"max {row['max']:.2g} over {row['tokens']} tokens; {same:.0%} of the rollouts are the same"
            )
        print(f"  {time.perf_counter() - began:.0f} s", file=sys.stderr)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
