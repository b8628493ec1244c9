"""This model beside transformers' torch implementation: one run, the same weights, the same inputs, the CPU.

    python benchmarks/backbone.py [--size tiny|100m|both] [--repeats 5]

Prints, for each size, milliseconds of a forward pass (text with images, and text alone), a training step (forward,
backward, SGD on every weight) and tokens a second of sampling 8 sequences; the last line is JSON with the speed-ups.
Both sides use float32 and all cores; each number is the median of the repeats, taken in turns, so that other load hits
all alike. `machine` in the last line says what it was measured on (`machine_speed.py`).

torch runs each twice: as it is, and compiled (`torch.compile`; its default mode, since CUDA graphs do not apply here).
As it is, it samples with a `DynamicCache` as `generate` does, without its bookkeeping; compiled, with a `StaticCache`
and one program a token, which draws the token, too. Neither computes log-probs of what it samples, stops, or gives each
sequence a seed of its own. Here the rollout engine samples, as in training: a seed for each sequence, log-probs, stop
ids, calls of 32 tokens. `--no-compile` leaves the compiled rows out. Compile time is not counted; what it is for a
forward pass of 48 layers of tiny width, traced and compiled without any cache, is printed at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from machine_speed import Machine
from PIL import Image

from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig, VisionConfig
from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.models.qwen3_vl import Params, forward, init_params, save_hf
from hypereyes_jax.processing import ContextChunk, expand, pack_inputs, patchify
from hypereyes_jax.rollout import DecodeRequest, Engine

TINY = Qwen3VLConfig(
    TextConfig(
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        mrope_section=(6, 5, 5),
        tie_word_embeddings=True,
    ),
    VisionConfig(
        depth=3,
        hidden_size=96,
        intermediate_size=256,
        num_heads=3,
        patch_size=8,
        num_position_embeddings=256,
        deepstack_visual_indexes=(0, 1),
        out_hidden_size=192,
    ),
    image_token_id=2000,
    video_token_id=2001,
    vision_start_token_id=2002,
    vision_end_token_id=2003,
)
SIZES = {
    "tiny": TINY,
    "100m": dataclasses.replace(
        TINY,
        text=dataclasses.replace(
            TINY.text,
            vocab_size=16384,
            hidden_size=768,
            intermediate_size=2304,
            num_hidden_layers=14,
            num_attention_heads=12,
            num_key_value_heads=4,
            head_dim=64,
            mrope_section=(12, 10, 10),
        ),
        vision=dataclasses.replace(
            TINY.vision, hidden_size=384, intermediate_size=1024, num_heads=6, out_hidden_size=768
        ),
    ),
}
BATCH, LENGTH, SEQUENCES, PROMPT, NEW_TOKENS = 4, 256, 8, 32, 64


def samples_of(config: Qwen3VLConfig) -> list[tuple[list[int], list]]:
    """One mosaic and six crops a sample, `LENGTH` tokens once expanded."""
    rng = np.random.default_rng(0)
    image = [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]
    samples = []
    for _ in range(BATCH):
        sizes = [(128, 96)] + [(32, 32)] * 6
        images = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
        patched = [patchify(i, config.vision, 32 * 32, 128 * 96) for i in images]
        tokens = image * len(patched)
        spare = LENGTH - len(expand(config, tokens, patched).tokens_T)
        samples.append((rng.integers(0, 1900, spare).tolist() + tokens, patched))
    return samples


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class Work:
    """What both sides compute, with the same weights."""

    config: Qwen3VLConfig
    params: Params
    samples: list[tuple[list[int], list]]
    text: list[list[int]]  # [BATCH, LENGTH] ids without an image
    prompt: np.ndarray  # [SEQUENCES, PROMPT] ids that are sampled on from


def work_of(config: Qwen3VLConfig) -> Work:
    text = np.random.default_rng(2).integers(0, 1900, (BATCH, LENGTH)).tolist()
    prompt = np.random.default_rng(1).integers(0, 1900, (SEQUENCES, PROMPT))
    return Work(config, init_params(jax.random.key(0), config), samples_of(config), text, prompt)


def ours(work: Work) -> dict[str, Callable[[], object]]:
    config, params = work.config, work.params
    inputs = jax.tree.map(jnp.asarray, pack_inputs(config, work.samples, length=LENGTH))
    text_inputs = jax.tree.map(jnp.asarray, pack_inputs(config, [(ids, []) for ids in work.text], length=LENGTH))

    def loss_of(params, inputs):
        logits = forward(params, config, inputs)[:, :-1]
        target = inputs.tokens_BT[:, 1:, None]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, target, -1)[..., 0])

    @jax.jit
    def step(params, inputs):
        loss, gradient = jax.value_and_grad(loss_of)(params, inputs)
        return loss, jax.tree.map(lambda p, g: p - 1e-6 * g, params, gradient)

    settings = EngineConfig(
        slots=SEQUENCES,
        context=PROMPT + NEW_TOKENS,
        max_steps=32,
        decode_rows=(SEQUENCES,),
        extend_rows=(SEQUENCES,),
        extend_tokens=(PROMPT,),
        view_lengths=(PROMPT + NEW_TOKENS,),
    )
    engine = Engine(config, params, settings)
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=NEW_TOKENS)

    def generate():
        sequences = [engine.new_sequence(seed) for seed in range(SEQUENCES)]
        for sequence, tokens in zip(sequences, work.prompt, strict=True):
            sequence.append_context(engine.prepare(ContextChunk(tokens.astype(np.int32))))
            engine.acquire(sequence)
        engine.extend(sequences)
        for left in range(NEW_TOKENS, 0, -settings.max_steps):
            engine.decode([DecodeRequest(sequence, sampling, (), left) for sequence in sequences])
        for sequence in sequences:
            assert sequence.sampled == NEW_TOKENS
            engine.release(sequence)

    jitted_forward = jax.jit(lambda params, inputs: forward(params, config, inputs))
    return {
        "forward": lambda: jax.block_until_ready(jitted_forward(params, inputs)),
        "train": lambda: jax.block_until_ready(step(params, inputs)),
        "sample": generate,
        "text": lambda: jax.block_until_ready(jitted_forward(params, text_inputs)),
    }


def torch_inputs_of(work: Work) -> dict[str, torch.Tensor]:
    rows = [expand(work.config, *sample) for sample in work.samples]
    ids = torch.tensor(np.stack([row.tokens_T for row in rows]).astype(np.int64))
    patched = [image for _, images in work.samples for image in images]
    return {
        "input_ids": ids,
        "mm_token_type_ids": (ids == work.config.image_token_id).int(),
        "pixel_values": torch.tensor(np.concatenate([image.patches for image in patched])),
        "image_grid_thw": torch.tensor([image.grid_thw for image in patched]),
    }


def theirs(work: Work) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """(transformers' model as it is, and compiled)."""
    with tempfile.TemporaryDirectory() as path:
        save_hf(path, work.config, work.params)
        model = transformers.AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    inputs, text_ids, prompt = torch_inputs_of(work), torch.tensor(work.text), work.prompt

    def run_forward(model=model):
        with torch.no_grad():
            return model(**inputs).logits

    def train(model=model):
        logits = model(**inputs).logits[:, :-1]
        target = inputs["input_ids"][:, 1:].reshape(-1)
        torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), target).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-6 * parameter.grad
        model.zero_grad()

    def generate():
        with torch.no_grad():
            out = model(input_ids=torch.tensor(prompt), use_cache=True)
            for _ in range(NEW_TOKENS):
                token = torch.multinomial(out.logits[:, -1].softmax(-1), 1)
                out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)

    @torch.compile(fullgraph=True, dynamic=False)
    def one_token(token, place, cache):
        # The positions are given: to work them out, the model would look at values.
        position = place[None, None].expand(3, SEQUENCES, 1)
        logits = model(input_ids=token, position_ids=position, past_key_values=cache, use_cache=True).logits
        return torch.multinomial(logits[:, -1].softmax(-1), 1)

    def generate_compiled():
        with torch.no_grad():
            cache = transformers.StaticCache(model.config.get_text_config(), max_cache_len=PROMPT + NEW_TOKENS)
            out = model(input_ids=torch.tensor(prompt), past_key_values=cache, use_cache=True)
            token = torch.multinomial(out.logits[:, -1].softmax(-1), 1)
            for step in range(NEW_TOKENS - 1):
                token = one_token(token, torch.tensor([PROMPT + step]), cache)

    def run_text(model=model):
        with torch.no_grad():
            return model(input_ids=text_ids).logits

    fast = torch.compile(model)
    plain = {"forward": run_forward, "train": train, "sample": generate, "text": run_text}
    compiled = {
        "forward": lambda: run_forward(fast),
        "train": lambda: train(fast),
        "sample": generate_compiled,
        "text": lambda: run_text(fast),
    }
    return plain, compiled


def measure(name: str, config: Qwen3VLConfig, repeats: int, compiled: bool) -> dict[str, float]:
    """Prints each kind of work's times, and returns the speed-ups."""
    work = work_of(config)
    mine, (plain, fast) = ours(work), theirs(work)
    count = sum(x.size for x in jax.tree.leaves(work.params))
    difference = np.abs(np.asarray(mine["forward"]()) - plain["forward"]().numpy()).max()
    print(f"{name}: {count / 1e6:.1f} M parameters, logits differ by {difference:.1e}")
    speedups = {}
    for kind in mine:
        rivals = {"torch": plain[kind], "compiled": fast[kind]} if compiled else {"torch": plain[kind]}
        runs = {"ours": mine[kind], **rivals}
        for run in runs.values():  # compiles
            run(), run()
        # in turns: whatever else the machine does hits all
        taken = [{side: timed(run) for side, run in runs.items()} for _ in range(repeats)]
        median = {side: statistics.median(each[side] for each in taken) for side in runs}
        seconds = median["ours"]
        speedups[f"{name}_{kind}_speedup"] = round(median["torch"] / seconds, 2)
        if compiled:
            speedups[f"{name}_{kind}_speedup_compiled"] = round(median["compiled"] / seconds, 2)
        rate = f", {SEQUENCES * NEW_TOKENS / seconds:.0f} tokens/s" if kind == "sample" else ""
        beside = ", ".join(f"{side} {median[side] * 1e3:8.1f} ms: {median[side] / seconds:5.2f}x" for side in rivals)
        print(f"  {kind:8} {seconds * 1e3:8.1f} ms, {beside}{rate}", flush=True)
    return speedups


def cold_compile() -> dict[str, float]:
    """Seconds until a forward pass of 48 layers is ready to run, dense and with experts."""
    jax.config.update("jax_enable_compilation_cache", False)
    seconds = {}
    dense = dataclasses.replace(TINY.text, num_hidden_layers=48)
    moe = dataclasses.replace(dense, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=64)
    for name, text in (("dense", dense), ("moe", moe)):
        deep = dataclasses.replace(TINY, text=text)
        params = jax.eval_shape(lambda deep=deep: init_params(jax.random.key(0), deep))
        inputs = pack_inputs(deep, samples_of(deep), length=LENGTH)
        started = time.perf_counter()
        jax.jit(lambda params, inputs, deep=deep: forward(params, deep, inputs)).lower(params, inputs).compile()
        seconds[f"compile_48_layers_{name}_s"] = round(time.perf_counter() - started, 2)
    print(", ".join(f"{name} {value} s" for name, value in seconds.items()))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES, "both"], default="both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled torch")
    arguments = parser.parse_args()
    machine = Machine()
    speedups: dict[str, float] = {}
    for name in SIZES if arguments.size == "both" else [arguments.size]:
        speedups |= measure(name, SIZES[name], arguments.repeats, not arguments.no_compile)
    speedups |= cold_compile()
    print(json.dumps(speedups | {"machine": machine.figures()}))


if __name__ == "__main__":
    main()
