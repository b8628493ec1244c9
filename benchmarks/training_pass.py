"""An optimiser step of the miniature's SFT and RL on a CPU, and what each choice in it is worth.

    python benchmarks/training_pass.py [--turns 3]      # ten minutes

It makes its demonstrations, over which variants take turns: layers in a scan, or one after another
(`Kernels.unrolled`); dropout by a random word for each value, or for two; rows of a micro-batch. The last line is JSON:
of each variant the median seconds of a step, and of the processor's seconds, which others on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from machine_speed import Machine

from hypereyes_jax.cli import synth
from hypereyes_jax.launch.global_arrays import initial_state
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import TrainingSample, pack, sft_sample
from hypereyes_jax.learner.step_batch import step_batch
from hypereyes_jax.models import adapters
from hypereyes_jax.models.lora import init_lora
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.stop import StopRequest
from hypereyes_jax.runs.terminal import Terminal
from hypereyes_jax.train.adapters import adapter_rules
from hypereyes_jax.train.demonstrations import open_demonstrations
from hypereyes_jax.train.settings import SftSettings
from hypereyes_jax.train.sizes import MINIATURE_RL, MINIATURE_SFT

BY_HALVES = adapters.dropped_by_halves
RL_SAMPLES, STEPS = 80, 4  # those of a step whose groups differ; steps of SFT a turn


class Variant(NamedTuple):
    unrolled: bool
    halves: bool  # two values share a random word of dropout
    rows: int  # of a micro-batch
    row_images: int


VARIANTS = {
    "scan, a word each, 8 rows": Variant(False, False, 8, 2),
    "unrolled, a word each, 8 rows": Variant(True, False, 8, 2),
    "unrolled, half a word, 8 rows": Variant(True, True, 8, 2),
    "unrolled, half a word, 2 rows": Variant(True, True, 2, 3),
}


class Base(NamedTuple):
    """The packaged base model."""

    model: Any
    params: Any
    chat: Any


def demonstrations(base: Base, questions: int) -> list[Any]:
    """Those of the miniature's world, as training reads them."""
    with tempfile.TemporaryDirectory() as folder, StopRequest() as stop, Stages() as stages:
        config = synth.SynthConfig(out=Path(folder), sft_questions=questions, rl_candidates=1, eval_questions=1)
        directory = RunDirectory.open(config.out, "synth", config, stop=stop)
        synth.make_data(directory, config, stages)
        file = directory.file(synth.DEMONSTRATIONS)
        read = open_demonstrations(file, base.chat, base.model, MINIATURE_SFT, Processes(), Terminal())
        return [read[number] for number in range(len(read))]


def steps_of(stage: str, variant: Variant, base: Base, samples: list[Any]) -> tuple[Callable[[], None], int]:
    """What runs some steps of a variant, and how many. It has compiled its programs by then."""
    model = base.model
    adapters.dropped_by_halves = BY_HALVES if variant.halves else adapters.dropped_one_by_one  # as it is traced
    sizes = replace(
        MINIATURE_SFT if stage == "sft" else MINIATURE_RL, shard_rows=variant.rows, row_images=variant.row_images
    )
    learner = make_learner(model, sizes.learner, kernels=Kernels(unrolled=variant.unrolled))
    settings, rng = SftSettings(), np.random.default_rng(0)
    if stage == "sft":
        packing, size = replace(sizes.pack(settings.batch), weighting="token-mean"), settings.batch
        chosen = [sft_sample(chunks) for chunks in samples]
        lora = partial(init_lora, config=model, lora_config=adapter_rules(8, 32.0, settings.dropout))
        step = learner.sft_step
    else:
        packing, size, lora, step = sizes.pack(128), RL_SAMPLES, None, learner.rl_step
        chosen = [TrainingSample(sft_sample(chunks).chunks, float(rng.normal())) for chunks in samples]
    batches = [step_batch(pack(model, chosen[at : at + size], packing)) for at in range(0, len(chosen), size)]
    batches = batches[: STEPS if stage == "sft" else 1]
    kept = [initial_state(None, learner, 0, jax.tree.map(jax.numpy.copy, base.params), lora)]

    def run() -> None:
        for batch in batches:
            kept[0], figures = step(kept[0], batch)
            jax.block_until_ready(figures["loss"])

    run()
    return run, len(batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="how often each variant runs its steps")
    parser.add_argument("--questions", type=int, default=240, help="that demonstrations are made for; some are dropped")
    args = parser.parse_args()
    machine = Machine()
    base = Base(*load_model(Path(str(resources.files("hypereyes_jax.assets") / "base"))))
    samples = demonstrations(base, args.questions)[: STEPS * SftSettings().batch]
    out: dict[str, Any] = {}
    for stage in ("sft", "rl"):
        # dropout is of SFT only
        variants = {name: v for name, v in VARIANTS.items() if stage == "sft" or not v.halves or v.rows == 2}
        runs = {name: steps_of(stage, variant, base, samples) for name, variant in variants.items()}
        wall: dict[str, list[float]] = {name: [] for name in runs}
        processor: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.turns):
            for name, (run, steps) in runs.items():
                began, busy = time.perf_counter(), time.process_time()
                run()
                wall[name].append((time.perf_counter() - began) / steps)
                processor[name].append((time.process_time() - busy) / steps)
        for name in runs:
            seconds, cpu = statistics.median(wall[name]), statistics.median(processor[name])
            out[f"{stage}: {name}"] = {"seconds": round(seconds, 2), "processor_seconds": round(cpu, 2)}
            print(f"{stage}, {name}: {seconds:.2f} s a step, {cpu:.2f} s of the processor", flush=True)
    print(json.dumps({**out, "machine": machine.figures()}))


if __name__ == "__main__":
    main()
