"""The learner's cost, side by side: one device and a mesh of eight, host overhead, and transformers torch-CPU.

    python benchmarks/learner.py [--size miniature] [--steps 5] [--skip-torch]

All run the same weights on the same samples and cores. Each part is a process of its own, because the number of devices
is fixed when jax starts. Overhead is a whole step of a tiny model, putting its batch on the devices included; on eight
forced devices it holds their share of the machine's cores, too. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine_speed import Machine

ROWS, TOKENS, IMAGE = 16, 512, 128  # a batch: one sample of TOKENS tokens a row, with one image of IMAGE x IMAGE pixels


def model(size: str) -> Any:
    from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig, VisionConfig

    width, layers, inner = {"miniature": (128, 4, 384), "100m": (768, 12, 3072)}[size]
    text = TextConfig(
        vocab_size=8192, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 64, head_dim=32, mrope_section=(6, 5, 5),
        tie_word_embeddings=True,
    )  # fmt: skip
    vision = VisionConfig(
        depth=2, hidden_size=64, intermediate_size=128, num_heads=2, num_position_embeddings=256,
        deepstack_visual_indexes=(0,), out_hidden_size=width,
    )  # fmt: skip
    return Qwen3VLConfig(text, vision, 8000, 8001, 8002, 8003)


def trajectories() -> list[Any]:
    import numpy as np
    from PIL import Image

    from hypereyes_jax.processing.types import ContextChunk, SampledChunk

    rng = np.random.default_rng(0)
    found = []
    for _ in range(ROWS):
        picture = Image.fromarray(rng.integers(0, 255, (IMAGE, IMAGE, 3), dtype=np.uint8))
        prompt = np.concatenate([rng.integers(0, 7999, 196), [8002, 8000, 8003]]).astype(np.int32)
        turn = rng.integers(0, 7999, TOKENS - 198 - (IMAGE // 32) ** 2).astype(np.int32)
        zeros = np.zeros(len(turn), np.float32)
        found.append(
            (ContextChunk(prompt, (picture,)), SampledChunk(turn, zeros, zeros, np.zeros(len(turn), np.int32)))
        )
    return found


def median(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]


def ours(size: str, steps: int, devices: int) -> dict[str, float]:
    """Median seconds of a step on `devices` devices, and how many parameters the model has."""
    import jax

    from hypereyes_jax.configs.mesh import MeshConfig
    from hypereyes_jax.configs.training import LearnerConfig, PackConfig
    from hypereyes_jax.learner.learner import make_learner
    from hypereyes_jax.learner.packing import pack, sft_sample
    from hypereyes_jax.models.qwen3_vl import init_params
    from hypereyes_jax.models.sharding import make_mesh

    config = model(size)
    mesh = make_mesh(MeshConfig("benchmark", "cpu", fsdp=devices)) if devices > 1 else None
    learner = make_learner(config, LearnerConfig(), mesh)
    state = learner.init(jax.random.key(0), init_params(jax.random.key(0), config))
    settings = PackConfig(row_lengths=(TOKENS,), rows=ROWS, shards=devices, min_pixels=IMAGE**2, max_pixels=IMAGE**2)
    batch = pack(config, [sft_sample(chunks) for chunks in trajectories()], settings)
    if mesh is not None:
        assert learner.shardings is not None
        state = jax.device_put(state, learner.shardings(state))
    count = sum(leaf.size for leaf in jax.tree.leaves(state.trainable))
    took = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        state, _ = learner.sft_step(state, batch)
        jax.block_until_ready(state)
        took.append(time.perf_counter() - started)
    return {"seconds": median(took[1:]), "parameters": count}


def overhead(devices: int) -> dict[str, float]:
    """Median milliseconds of a whole step of a model so small that little but the host's work is left.

    From the packed batch in the host's memory, one row a device, to the finished update.
    """
    import jax

    from hypereyes_jax.configs.mesh import MeshConfig
    from hypereyes_jax.configs.training import LearnerConfig, PackConfig
    from hypereyes_jax.learner.learner import make_learner
    from hypereyes_jax.learner.packing import pack, sft_sample
    from hypereyes_jax.models.qwen3_vl import init_params
    from hypereyes_jax.models.sharding import make_mesh
    from tests.learner.small import CONFIG, trajectory

    mesh = make_mesh(MeshConfig("benchmark", "cpu", fsdp=devices)) if devices > 1 else None
    learner = make_learner(CONFIG, LearnerConfig(), mesh)
    state = learner.init(jax.random.key(0), init_params(jax.random.key(0), CONFIG))
    settings = PackConfig(row_lengths=(64,), rows=devices, shards=devices, min_pixels=64, max_pixels=64 * 64)
    packed = pack(CONFIG, [sft_sample(trajectory(number)) for number in range(devices)], settings)
    if mesh is not None:
        assert learner.shardings is not None
        state = jax.device_put(state, learner.shardings(state))
    took = []
    for _ in range(51):
        started = time.perf_counter()
        state, _ = learner.sft_step(state, packed)
        jax.block_until_ready(state)
        took.append(time.perf_counter() - started)
    return {"milliseconds": 1000 * median(took[1:])}


def theirs(size: str, steps: int) -> dict[str, float]:
    """Median seconds of transformers' forward, backward and AdamW on the same weights and samples."""
    import jax
    import numpy as np
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from hypereyes_jax.models.qwen3_vl import init_params, save_hf
    from hypereyes_jax.processing import patchify

    config = model(size)
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as directory:
        save_hf(directory, config, init_params(jax.random.key(0), config))
        network = Qwen3VLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    ids, patches, grids, labels = [], [], [], []
    for prompt, turn in trajectories():
        image = patchify(prompt.images[0], config.vision, IMAGE**2, IMAGE**2)
        visual = np.full((IMAGE // 32) ** 2, config.image_token_id)
        row = np.concatenate([prompt.tokens[:-2], visual, prompt.tokens[-1:], turn.tokens])
        ids.append(row)
        labels.append(np.where(np.arange(len(row)) >= len(row) - len(turn.tokens), row, -100))
        patches.append(image.patches)
        grids.append(image.grid_thw)
    tokens, label = torch.tensor(np.stack(ids)), torch.tensor(np.stack(labels))
    pixels, grid = torch.tensor(np.concatenate(patches)), torch.tensor(grids)
    took = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        out = network(input_ids=tokens, attention_mask=torch.ones_like(tokens), pixel_values=pixels,
                      image_grid_thw=grid, mm_token_type_ids=(tokens == config.image_token_id).int(),
                      labels=label)  # fmt: skip
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        took.append(time.perf_counter() - started)
    return {"seconds": median(took[1:])}


def child(part: str, size: str, steps: int, devices: int = 1) -> dict[str, float]:
    root = Path(__file__).parents[1]
    flags = f"--xla_force_host_platform_device_count={devices}" if devices > 1 else ""
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable,
        __file__,
        "--part",
        part,
        "--size",
        size,
        "--steps",
        str(steps),
        "--devices",
        str(devices),
    ]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="miniature", choices=["miniature", "100m"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--skip-torch", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, default=1, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    machine = Machine()
    if settings.part:
        parts = {
            "ours": lambda: ours(settings.size, settings.steps, settings.devices),
            "overhead": lambda: overhead(settings.devices),
            "theirs": lambda: theirs(settings.size, settings.steps),
        }
        print(json.dumps(parts[settings.part]()))
        return
    single = child("ours", settings.size, settings.steps)
    eight = child("ours", settings.size, settings.steps, devices=8)
    result = {
        "size": settings.size,
        "parameters": single["parameters"],
        "step_seconds": single["seconds"],
        "sharded_step_seconds": eight["seconds"],
        "sharded_over_single": eight["seconds"] / single["seconds"],
        "host_overhead_ms": child("overhead", settings.size, settings.steps)["milliseconds"],
        "sharded_overhead_ms": child("overhead", settings.size, settings.steps, devices=8)["milliseconds"],
    }
    if not settings.skip_torch:
        result["torch_step_seconds"] = child("theirs", settings.size, settings.steps)["seconds"]
        result["speedup_over_torch"] = result["torch_step_seconds"] / single["seconds"]
    for name, value in result.items():
        print(f"{name:24} {value if isinstance(value, str) else round(value, 4)}")
    print(json.dumps(result | {"machine": machine.figures()}))


if __name__ == "__main__":
    main()
