"""What one accelerator does: tokens a second of decode, a training step and its MFU, kernels a step, peak memory.

    python benchmarks/card.py --out card.json                 # on a card; a 2B with random weights, minutes
    python benchmarks/card.py --size tiny --rows 4 --out x.json   # tries the program on a CPU
    python benchmarks/card.py --table card.json               # rows for docs/hardware.md

`tools/gpu_check.sh` runs it after the tests of the kernels (`pytest -m gpu`). Decode is the engine's own program on
slots that hold `--context` positions each; where torch with CUDA is installed, transformers' `generate` runs the same
sizes after the same context, prefill left out. Memory is what the compiler planned, as `hypereyes plan` tells it, and
what the device says that it used. Kernels are counted in the profiler's trace of one call. The last line is JSON, which
`--out` gets, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine_speed import Machine

from hypereyes_jax.configs.mesh import DEVICES
from hypereyes_jax.configs.model import PRESETS, Qwen3VLConfig
from hypereyes_jax.configs.rollout import EngineConfig
from hypereyes_jax.configs.training import LearnerConfig, PackConfig
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import pack, sft_sample
from hypereyes_jax.models.flops import useful_flops
from hypereyes_jax.models.qwen3_vl import Kernels, init_params
from hypereyes_jax.models.qwen3_vl.text import unstacked
from hypereyes_jax.plan.launches import count_launches
from hypereyes_jax.processing.types import ContextChunk, SampledChunk
from hypereyes_jax.rollout.cache import kv
from hypereyes_jax.rollout.cache.access import DecodeSize
from hypereyes_jax.rollout.programs.decode import PackedDecodeRows, decode_rows

GIB = 2**30
STEPS = 16  # tokens of a decode call


def sized(name: str) -> Qwen3VLConfig:
    """A preset, or "tiny": the 2B's shape small enough for a CPU."""
    if name != "tiny":
        return PRESETS[name]
    text = replace(
        PRESETS["2b"].text, vocab_size=1024, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, mrope_section=(4, 2, 2),
    )  # fmt: skip
    vision = replace(
        PRESETS["2b"].vision, depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=64,
        deepstack_visual_indexes=(0,),
    )  # fmt: skip
    return replace(PRESETS["2b"], text=text, vision=vision)


def median_seconds(call: Callable[[], Any], calls: int) -> float:
    """Of some calls after a first one, each waited for."""
    took = []
    for _ in range(calls + 1):
        began = time.perf_counter()
        jax.block_until_ready(call())
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:])


def profiled_kernels(call: Callable[[], Any]) -> int:
    """Kernels that a GPU ran during one call, by the profiler; 0 where there is no GPU."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        count = 0
        for path in Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                if plane.name.startswith("/device:GPU"):
                    count += sum(len(list(line.events)) for line in plane.lines if line.name.startswith("Stream"))
        return count


def memory(compiled: Any) -> dict[str, float]:
    """GiB that the compiler planned, and the most that the device had in use since it was started."""
    planned = compiled.memory_analysis()
    out = planned.output_size_in_bytes - planned.alias_size_in_bytes
    found = {"planned_gib": (planned.argument_size_in_bytes + out + planned.temp_size_in_bytes) / GIB}
    used = jax.devices()[0].memory_stats()
    return found | ({"peak_gib": used["peak_bytes_in_use"] / GIB} if used else {})


def decode(config: Qwen3VLConfig, slots: int, context: int, calls: int) -> dict[str, float]:
    """Of the engine's program with all slots at work."""
    platform = jax.default_backend()
    kernels = Kernels.for_sampling(platform, config.text.num_hidden_layers)
    settings = EngineConfig(slots=slots, context=context + (calls + 4) * STEPS, kv="bfloat16", max_steps=STEPS)
    params = jax.jit(lambda: init_params(jax.random.key(0), config, jnp.bfloat16))()
    if kernels.slots == "in_place":
        params = jax.jit(unstacked, donate_argnums=0)(params)
    pages = settings.slot_pages
    store = [kv.init_store(config, slots * pages, settings.page_tokens, settings.kv)]
    packed = PackedDecodeRows.padding(slots, STEPS, pages)
    packed.floats_RF[:] = (0.8, 0.95, 0.0)  # temperature, top-p, min-p
    options: dict[str, Any] = {
        "config": config,
        "kernels": kernels,
        "size": DecodeSize(settings.view_buckets[-1], STEPS),
    }
    done = [0]

    def call() -> Any:
        place = context + STEPS * done[0]
        for row in range(slots):
            own = range(row * pages, (row + 1) * pages)
            packed.put(row, (300, place, place, STEPS + 1, 0, 0), np.zeros(2, np.uint32), (), own)  # none ends
        done[0] += 1
        store[0], drawn = decode_rows(params, None, store[0], packed, **options)
        return drawn

    compiled: Any = decode_rows.lower(params, None, store[0], packed, **options).compile()
    seconds = median_seconds(call, calls)
    return {
        "slots": slots,
        "tokens_per_second": slots * STEPS / seconds,
        "ms_a_token": 1000 * seconds / STEPS,
        "kernels_planned": count_launches(compiled.as_text()).kernels / STEPS,
        "kernels_profiled": profiled_kernels(call) / STEPS,
        **memory(compiled),
    }


def training(config: Qwen3VLConfig, row_length: int, rows: int, calls: int) -> dict[str, float]:
    """A step of full supervised training of the language model in bfloat16, on text, one row a micro-batch."""
    learn = LearnerConfig(train="language", remat="attention", compute_dtype="bfloat16")
    learner = make_learner(config, learn, kernels=Kernels.for_platform(jax.default_backend()))
    state = [learner.init(jax.random.key(0), init_params(jax.random.key(0), config))]
    rng = np.random.default_rng(0)
    zeros = np.zeros(row_length - 64, np.float32)
    samples = [
        sft_sample(
            (
                ContextChunk(rng.integers(0, 1000, 64).astype(np.int32), ()),
                SampledChunk(rng.integers(0, 1000, len(zeros)).astype(np.int32), zeros, zeros, zeros.astype(np.int32)),
            )
        )
        for _ in range(rows)
    ]
    batch = pack(config, samples, PackConfig(row_lengths=(row_length,), rows=1))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state[0], batch))
    parts = [(part, part.trace().lower().compile()) for part in learner.sft_step.parts(*shapes)]
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state[0].opt_state)) / GIB
    planned = [memory(compiled) for _, compiled in parts]
    # the update takes the moments as arguments; the other parts run beside them
    gib = [
        each["planned_gib"] + moments * (part.name != "update") for each, (part, _) in zip(planned, parts, strict=True)
    ]

    def call() -> Any:
        state[0], figures = learner.sft_step(state[0], batch)
        return figures

    seconds = median_seconds(call, calls)
    peak = peak_tflops()
    useful = useful_flops(config, rows * row_length, row_length, 0, "language")
    return {
        "rows": rows,
        "row_length": row_length,
        "seconds": seconds,
        "tokens_per_second": rows * row_length / seconds,
        "useful_tflops_per_second": useful / seconds / 1e12,
        **({"mfu": useful / seconds / 1e12 / peak} if peak else {}),
        "kernels_planned": sum(part.times * count_launches(program.as_text()).kernels for part, program in parts),
        "kernels_profiled": profiled_kernels(call),
        **planned[0],
        "planned_gib": max(gib),
    }


def peak_tflops() -> float:
    """Of this card in bfloat16, as published; 0 where it is not in the table."""
    kind = jax.devices()[0].device_kind.lower()
    return next((each.bf16_tflops for name, each in DEVICES.items() if name in kind), 0.0)


def transformers_decode(config: Qwen3VLConfig, rows: int, context: int) -> dict[str, float]:
    """`generate` of a text model of the same sizes, in bfloat16 with torch's own attention; {} without CUDA."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        return {}
    import torch
    import transformers

    if not torch.cuda.is_available():
        return {}
    text = config.text
    sizes = transformers.Qwen3Config(
        vocab_size=text.vocab_size, hidden_size=text.hidden_size, intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_hidden_layers, num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads, head_dim=text.head_dim,
        tie_word_embeddings=text.tie_word_embeddings,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM._from_config(sizes, attn_implementation="sdpa", dtype=torch.bfloat16).cuda()
    prompt = torch.randint(0, 1000, (rows, context), device="cuda")

    def seconds(tokens: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
        model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, **sampling)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds(4)
    few, many = 8, 72
    taken = seconds(many) - seconds(few)
    return {"slots": rows, "tokens_per_second": rows * (many - few) / taken}


def table(paths: list[Path]) -> str:
    """Markdown rows of what some runs wrote."""
    lines = [
        "| card and date | what | tokens a second | kernels, planned / run | GiB, planned / used |",
        "|---|---|---|---|---|",
    ]
    for path in paths:
        found = json.loads(path.read_text())
        head = f"{found['device']}, {found['date']}, {found['size']}"
        rows = [(f"decode, {each['slots']} slots", each) for each in found["decode"]]
        rows += [(f"transformers' generate, {each['slots']} rows", each) for each in found["transformers"]]
        train = found["training"]
        mfu = f", MFU {100 * train['mfu']:.1f} %" if "mfu" in train else ""
        rows.append((f"training step, {train['rows']} x {train['row_length']:,}: {train['seconds']:.2f} s{mfu}", train))
        for what, each in rows:
            kernels = (
                f"{each['kernels_planned']:,.0f} / {each['kernels_profiled']:,.0f}" if "kernels_planned" in each else ""
            )
            used = (
                f"{each['planned_gib']:.2f} / {each.get('peak_gib', float('nan')):.2f}" if "planned_gib" in each else ""
            )
            lines.append(f"| {head} | {what} | {each['tokens_per_second']:,.0f} | {kernels} | {used} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2b", help="tiny, or a preset of configs.model")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 16, 64], help="rollouts that decode at a time")
    parser.add_argument("--context", type=int, default=2048, help="positions that each slot holds before")
    parser.add_argument("--row-length", type=int, default=8192, help="tokens of a training row")
    parser.add_argument("--rows", type=int, default=8, help="rows of a training step")
    parser.add_argument("--calls", type=int, default=5, help="timed calls of each program")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--table", type=Path, nargs="+", help="print rows for docs/hardware.md and run nothing")
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    machine = Machine()
    config = sized(args.size)
    found: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "date": date.today().isoformat(),
        "size": args.size,
        "settings": {name: value for name, value in vars(args).items() if name not in ("out", "table")},
        "decode": [decode(config, slots, args.context, args.calls) for slots in args.slots],
    }
    found["training"] = training(config, args.row_length, args.rows, args.calls)
    found["transformers"] = [each for slots in args.slots if (each := transformers_decode(config, slots, args.context))]
    found["machine"] = machine.figures()
    print(json.dumps(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
