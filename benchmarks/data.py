"""How fast and in how much memory data are read: the loader of `hypereyes sft`, and the index of `hypereyes rl`.

    python benchmarks/data.py                                   # 30,000 demonstrations, 3 GB, 1,000,000 questions
    python benchmarks/data.py --rows 2000 --gigabytes 0.2 --questions 100000 --batches 20       # a few minutes
    python benchmarks/data.py --rows 3200 --width 320 --parts by_path       # 500 batches, whose memory must stay flat

It makes its own files (kept in --folder, used again): demonstrations of 5 pictures of 1.2 megapixels, by path over 500
distinct files and as JSON lines with the pictures inside; and questions without pictures. Each part runs in a process
of its own, which plays process 0 of --processes that share a batch of 64: it looks through its share of the rows, then
reads, resizes, cuts and packs its share of each batch, as training does. The last line is JSON. Of each part: seconds
to the first batch, and how many of them on a core (on a busy machine the two differ); resident memory (MiB) at the
first batch, in the middle, at the last and at most; rows opened, which must be those of its share; seconds a batch on
this machine's cores; and how many cores a process needs to keep ahead of --step.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import os
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from machine_speed import Machine
from PIL import Image

PICTURES = 5
FILES = 500


def jpeg(number: int, width: int) -> bytes:
    """A picture, at 1280 x 960 of some 250 kB: smooth shapes and fine grain, as photos have."""
    height = width * 3 // 4
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
    coarse = coarse.resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (height, width, 1))
    pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return out.getvalue()


def talk(number: int, pictures: list[str]) -> dict[str, Any]:
    """A demonstration of four rounds in ms-swift's form; each but the first picture comes with a tool's result."""
    messages: list[dict[str, str]] = [{"role": "user", "content": f"<image>Which of these is number {number}?"}]
    for round_ in range(len(pictures) - 1):
        call = {"name": "image_search", "arguments": {"image_id": "img_0", "area": [[0.1, 0.1, 0.5, 0.5]]}}
        messages.append({"role": "assistant", "content": f"<reason>I look at part {round_}.</reason>"})
        messages.append({"role": "tool_call", "content": json.dumps(call)})
        messages.append({"role": "tool_response", "content": "<image>" + "A passage of the web, as found. " * 40})
    messages.append({"role": "assistant", "content": "<reason>Now I know.</reason><answer>Oslo</answer>"})
    return {"id": number, "messages": messages, "images": pictures}


def make(options: argparse.Namespace) -> dict[str, Path]:
    """The files of the parts that are measured; those that are there already are left."""
    folder = options.folder / str(options.width)
    names = [f"pictures/{number:03d}.jpg" for number in range(FILES)]
    paths = {
        "by_path": folder / f"by_path_{options.rows}.jsonl",
        "inline": folder / f"inline_{options.gigabytes:g}.jsonl",
        "questions": options.folder / f"questions_{options.questions}.jsonl",
    }
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    if {"by_path", "inline"} & set(options.parts):
        for number, name in enumerate(names):
            if not (folder / name).exists():
                (folder / name).write_bytes(jpeg(number, options.width))
    missing = {part for part in options.parts if not paths[part].exists()}
    if "by_path" in missing:
        with open(paths["by_path"], "w") as file:
            for number in range(options.rows):
                file.write(json.dumps(talk(number, [names[i] for i in rng.integers(0, FILES, PICTURES)])) + "\n")
    if "inline" in missing:
        texts = [base64.b64encode((folder / name).read_bytes()).decode() for name in names]
        with open(paths["inline"], "w") as file:
            number = 0
            while file.tell() < options.gigabytes * 1e9:
                row = talk(number, [f"data:image/jpeg;base64,{texts[i]}" for i in rng.integers(0, FILES, PICTURES)])
                file.write(json.dumps(row) + "\n")
                number += 1
    if "questions" in missing:
        with open(paths["questions"], "w") as file:
            for number in range(options.questions):
                row = {"id": number, "question": f"Who wrote the book that is number {number} of the list, and when?"}
                file.write(json.dumps(row | {"answers": ["Ann", "Anna"], "category": "books"}) + "\n")
    return paths


def memory(name: str) -> float:
    """A line of /proc/self/status in MiB: VmRSS, VmHWM (the most so far)."""
    text = Path("/proc/self/status").read_text()
    return round(int(text.partition(f"{name}:")[2].split()[0]) / 1024, 1)


def measure_batches(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The loader's way of `hypereyes sft`, without a model."""
    began = time.perf_counter()
    from dataclasses import replace

    from transformers import AutoTokenizer

    from hypereyes_jax.configs.model import PRESETS
    from hypereyes_jax.configs.training import PackConfig
    from hypereyes_jax.data import open_examples
    from hypereyes_jax.data.pipeline import Batches, PipelineConfig
    from hypereyes_jax.data.trajectories import RowLimits, Trajectories, unusable
    from hypereyes_jax.learner.packing import pack, sft_sample
    from hypereyes_jax.processing import ChatFormat, PatchedImage, patchify_bytes

    tokenizer = AutoTokenizer.from_pretrained(str(resources.files("hypereyes_jax.assets") / "base"))
    chat = ChatFormat(tokenizer)
    imported = time.perf_counter()
    ids = tokenizer.get_vocab()
    model = replace(
        PRESETS[options.model],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
    )
    limits = RowLimits(options.row_length)
    examples = open_examples(path, check=False, bad_rows="skip")
    opened_at = time.perf_counter()
    share = range(0, len(examples), options.processes)
    left_out = unusable(examples, share, chat, limits)
    looked_at = time.perf_counter()

    def patched(image: Image.Image) -> PatchedImage:
        return patchify_bytes(image, model.vision, limits.min_pixels, limits.max_pixels)

    opened: set[int] = set()

    class Counted(Trajectories):
        def __getitem__(self, index: int) -> Any:  # type: ignore[override]
            opened.add(index)
            return super().__getitem__(index)

    trajectories = Counted(examples, chat, patchify=patched)
    local = options.batch // options.processes
    packing = PackConfig(row_lengths=(options.row_length,), rows=1, patch_dtype="uint8")
    config = PipelineConfig(options.batch, epochs=None, prefetch=options.prefetch, workers=options.workers)

    def prepare(group: list[Any]) -> Any:
        return pack(model, [sft_sample(chunks) for chunks in group], packing)

    batches = Batches(trajectories, prepare, config, 0, options.processes)
    batch = next(batches)
    first, first_cpu = time.perf_counter(), time.process_time()
    resident = [memory("VmRSS")]
    packed = sum(leaf.nbytes for leaf in batch.inputs.vision) / 2**20
    for _ in range(options.batches - 1):
        batch = None  # as training gives it up before it waits
        batch = next(batches)
        resident.append(memory("VmRSS"))
    del batch
    seconds = (time.perf_counter() - first) / max(1, options.batches - 1)
    most = memory("VmHWM")
    cores = min(os.cpu_count() or 1, options.workers + 1)
    # One trajectory on one core, without whatever else the machine does: what the workers divide among them.
    before = time.thread_time()
    prepare([trajectories[index] for index in range(local)])
    alone = time.thread_time() - before
    return {
        "rows": len(examples),
        "left_out": len(left_out),
        "seconds_to_import": round(imported - began, 2),
        "seconds_to_index": round(opened_at - imported, 2),
        "seconds_to_look_through_the_share": round(looked_at - opened_at, 2),
        "seconds_to_first_batch": round(first - began, 2),
        "cpu_seconds_to_first_batch": round(first_cpu, 2),
        "batches": options.batches,
        "trajectories_a_batch": local,
        "packed_mib_a_batch": round(packed, 1),
        "resident_mib_first": resident[0],
        "resident_mib_middle": resident[len(resident) // 2],
        "resident_mib_last": resident[-1],
        "resident_mib_median_first_half": float(np.median(resident[: len(resident) // 2 or 1])),
        "resident_mib_median_second_half": float(np.median(resident[len(resident) // 2 :])),
        "resident_mib_most": most,
        "rows_opened": len(opened),
        "rows_of_batches_and_those_ahead": local * (options.batches + options.prefetch + 1),
        "seconds_a_batch": round(seconds, 3),
        "cores": cores,
        "cpu_seconds_a_batch": round(alone, 3),
        "keeps_ahead": seconds <= options.step,
        "cores_needed_a_process": math.ceil(alone / options.step),
        "cores_needed_for_the_batch": math.ceil(alone / local * options.batch / options.step),
    }


def measure_index(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Opening questions, all looked through."""
    from hypereyes_jax.data import open_questions

    before, began, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    questions = open_questions(path)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    asked = [questions[index].id for index in (0, len(questions) // 2, len(questions) - 1)]
    return {
        "rows": len(questions),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "resident_mib_before": before,
        "resident_mib": memory("VmRSS"),
        "resident_mib_most": memory("VmHWM"),
        "asked": asked,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/data-benchmark"), help="where the files are made")
    parser.add_argument("--rows", type=int, default=30_000, help="demonstrations with pictures by path")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="of JSON lines with pictures inside")
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1280, help="of the pictures; 1280 x 960 are 1.2 megapixels")
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64, help="demonstrations, over all processes")
    parser.add_argument(
        "--processes",
        type=int,
        default=64,
        help="that share a batch, one a GPU as in the paper; one of them is measured",
    )
    parser.add_argument("--workers", type=int, default=2, help="loader threads")
    parser.add_argument("--prefetch", type=int, default=1, help="batches packed ahead")
    parser.add_argument("--step", type=float, default=0.5, help="seconds a step takes")
    parser.add_argument("--model", default="30b-a3b")
    parser.add_argument("--row-length", type=int, default=16_384)
    parser.add_argument("--parts", nargs="+", default=["by_path", "inline", "questions"])
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    paths = make(options)
    if options.part:
        measure = measure_index if options.part == "questions" else measure_batches
        print(json.dumps(measure(paths[options.part], options)))
        return
    machine = Machine()
    results: dict[str, Any] = {"cpus": os.cpu_count(), "batch": options.batch, "processes": options.processes}
    for part in options.parts:
        words = [sys.executable, __file__, *sys.argv[1:], "--part", part]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        results[part] = json.loads(done.stdout.splitlines()[-1])
        print(part, json.dumps(results[part], indent=1), file=sys.stderr)
    print(json.dumps(results | {"machine": machine.figures()}))


if __name__ == "__main__":
    main()
