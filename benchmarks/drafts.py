"""Drafts in decode steps: what a step costs with some, how many tokens it gives, and rollouts with and without.

    python benchmarks/drafts.py --checkpoint runs/quickstart/rl-model            # some minutes
    python benchmarks/drafts.py --checkpoint runs/quickstart/rl-model --rows 1 --questions 8

A step's cost depends on the hardware and on the model, so it is measured for the checkpoint and for 124 million random
parameters; the number of tokens depends on what is written, so it is counted in rollouts of held-out questions of the
miniature's world, searches included, which are the same to the last token with and without drafts. The last line is
JSON: milliseconds of a step by model, rows and drafts (median of several calls that take turns), and for the rollouts
tokens a step and seconds of decoding (median of several plays that take turns).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from backbone import SIZES
from machine_speed import Machine

from hypereyes_jax import miniature
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.eval.policy import Policy, load_policy, runner
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.models.qwen3_vl import Kernels, init_params
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.rollout.cache import kv
from hypereyes_jax.rollout.cache.access import DecodeSize
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.programs.decode import PackedDecodeRows, decode_rows
from hypereyes_jax.train.sizes import MINIATURE_RL, TrainingSizes

DRAFTS = (0, 2, 4, 7)
VIEW, STEPS, PAGE = 512, 8, 64


def step_times(config: Qwen3VLConfig, params: Any, rows: int, calls: int) -> dict[str, float]:
    """Milliseconds of a decode step behind `VIEW` positions, by drafts, all of them wrong."""
    kernels = Kernels.for_sampling("cpu", config.text.num_hidden_layers)
    context = VIEW + STEPS * (DRAFTS[-1] + 1)
    pages = -(-context // PAGE)
    stores = {drafts: kv.init_store(config, rows * pages, PAGE, "float32") for drafts in DRAFTS}
    seconds: dict[int, list[float]] = {drafts: [] for drafts in DRAFTS}
    for _ in range(calls + 1):
        for drafts in DRAFTS:
            packed = PackedDecodeRows.padding(rows, STEPS, pages)
            for row in range(rows):
                own = range(row * pages, (row + 1) * pages)
                packed.put(row, (300, VIEW - 1, VIEW - 1, context - VIEW, 0, 0), np.zeros(2, np.uint32), (), own)
            packed.floats_RF[:] = (0.8, 0.95, 0.0)  # temperature, top-p, min-p
            if drafts:
                packed = packed._replace(known_RN=np.full((rows, 4096 + VIEW), -1, np.int32))
            began = time.perf_counter()
            stores[drafts], drawn = decode_rows(
                params, None, stores[drafts], packed, config=config, kernels=kernels,
                size=DecodeSize(VIEW, STEPS, drafts),
            )  # fmt: skip
            steps = int(jax.device_get(drawn.steps_R).max())
            seconds[drafts].append((time.perf_counter() - began) / steps)
    return {str(drafts): 1000 * statistics.median(each[1:]) for drafts, each in seconds.items()}


async def play(policy: Policy, world: World, sizes: TrainingSizes, questions: list[Question]) -> Sequence[Trajectory]:
    return await runner(policy, WorldBackend(world), miniature.EPISODE, sizes.sampling())(questions)


def rollouts(policy: Policy, rows: int, questions: int, plays: int) -> dict[str, Any]:
    """Tokens a step of a row, and seconds of whole plays, by drafts; each play's tokens are those without any."""
    world = World.load()
    asked = world_questions(world, "heldout", questions * (plays + 1), 0)
    (given,) = policy.engines.all
    sizes = replace(MINIATURE_RL, slots=rows)
    engines = {
        drafts: Engines.on_one_device(given.config, given.params, replace(sizes.engine(), draft_tokens=drafts), 1)
        for drafts in DRAFTS
    }
    seconds: dict[int, list[float]] = {drafts: [] for drafts in DRAFTS}
    same: dict[int, list[bool]] = {drafts: [] for drafts in DRAFTS}
    for number in range(plays + 1):
        # others each time: what was sampled before would be found again
        own_questions = asked[number * questions : (number + 1) * questions]
        texts = {}
        for drafts in DRAFTS:
            own = Policy(engines[drafts], policy.chat)
            began = time.perf_counter()
            played = asyncio.run(play(own, world, sizes, own_questions))
            seconds[drafts].append(time.perf_counter() - began)
            texts[drafts] = [[turn.text for turn in each.result.turns] for each in played]
            same[drafts].append(texts[drafts] == texts[0])
    counts = {drafts: engines[drafts].all[0].counts for drafts in DRAFTS}
    return {
        str(drafts): {
            "tokens_a_step": round(each.decode_tokens / each.decode_row_steps, 2),
            "seconds": round(statistics.median(seconds[drafts][1:]), 3),
            "same_texts": all(same[drafts]),
        }
        for drafts, each in counts.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a policy of the miniature's world")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16], help="sequences that decode at a time")
    parser.add_argument("--questions", type=int, default=16, help="held-out ones that are played")
    parser.add_argument("--calls", type=int, default=5, help="timed calls and plays of each")
    options = parser.parse_args()
    machine = Machine()
    policy = load_policy(options.checkpoint, replace(MINIATURE_RL, slots=1).engine())
    (engine,) = policy.engines.all
    large = SIZES["100m"]
    models = {"checkpoint": (engine.config, engine.params), "100m": (large, init_params(jax.random.key(0), large))}
    steps: dict[str, dict[str, dict[str, float]]] = {}
    for name, (config, params) in models.items():
        for rows in options.rows:
            times = step_times(config, params, rows, options.calls)
            steps.setdefault(name, {})[str(rows)] = times
            print(
                f"{name}, {rows} rows: " + ", ".join(f"{d} drafts {ms:.1f} ms" for d, ms in times.items()), flush=True
            )
    played: dict[str, dict[str, Any]] = {}
    for rows in options.rows:
        played[str(rows)] = rollouts(policy, rows, options.questions, options.calls)
        for drafts, each in played[str(rows)].items():
            print(f"rollouts in {rows} slots, {drafts} drafts: {each}", flush=True)
    print(json.dumps({"step_ms": steps, "rollouts": played, "machine": machine.figures()}))


if __name__ == "__main__":
    main()
