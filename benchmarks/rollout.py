"""Rollout generation beside lock-step loops, with searches of several latencies.

    python benchmarks/rollout.py                # all, about eight minutes on two cores
    python benchmarks/rollout.py --no-hf        # without the Hugging Face loop (needs torch)
    python benchmarks/rollout.py --engines 1    # beside that loop, one engine with all slots
    python benchmarks/rollout.py --quick        # one run of each, of a few conversations

Weights are random (speed does not depend on them). Conversations have three turns, each observation a new image.

Against a lock-step loop of the same engine: turns have unequal lengths (mean 64 tokens), latencies are uniform within
half and one and a half times the stated one, and there are 24 times as many episodes as slots, so that beginning
and end weigh little. The loop fills all slots, lets every slot end its turn, awaits all searches, and goes on; its
waves follow each other. Model and slots are small, so that 0.2 s is long beside a turn; a model that computes for
seconds between its searches has less to gain.

Against lock-step loops of Hugging Face's model, same weights: 16 conversations, turns of exactly 64 tokens, latencies
as stated. One uses `generate` and prefills the whole conversation again each turn (`speedup_vs_lockstep_*`), the other
keeps keys and values between turns (`speedup_vs_kept_cache_*`); `hf_conversations.py` says what it leaves out. Ours
plays four times as many conversations as it has slots, each run others (encoded images are kept by their content, and
would make later runs faster), on as many engines as the commands would make. Throughput is compared: sampled tokens a
second.

Each is run three times, in turns; the median counts. `--quick` runs each once, on two conversations a slot and on 16
beside Hugging Face's model: it shows that all works, and its figures are rough.

Host overhead of a decode call: the time of a call for all slots whose program takes every argument (weights, cache,
rows) and returns what the real one returns, but computes nothing. Bookkeeping, transfers and dispatch are what is left.

The last line is JSON; `machine` in it says what it was measured on (`machine_speed.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from hf_conversations import HfConversations
from machine_speed import Machine
from PIL import Image

from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig, VisionConfig
from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Part, Question, SearchHit, StopReason
from hypereyes_jax.models.qwen3_vl import init_params
from hypereyes_jax.processing import ChatFormat, ContextChunk
from hypereyes_jax.processing.tokenizer import train_tokenizer
from hypereyes_jax.rollout import (
    DecodeRequest,
    Engine,
    Generator,
    GeneratorSession,
    Timeline,
    Trajectory,
    device,
    run_episodes,
)
from hypereyes_jax.rollout.cache.access import DecodeSize
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.programs.decode import Decoded, PackedDecodeRows
from hypereyes_jax.rollout.types import SchedulerCounts
from hypereyes_jax.runs.memory import keep_freed

TURNS, TOKENS = 3, 64
REPEATS = 3  # of each measurement, which take turns; the median counts
WAVES = 24  # conversations a slot, beside the lock-step loop of the same engine
BESIDE_HF = 4  # conversations a slot
SAMPLING = SamplingConfig(temperature=0.8, top_p=0.95, max_new_tokens=TOKENS)
WORDS = (
    "which flag is at the top left of this picture and what is the capital of its country answer search result".split()
)
ENGINE = EngineConfig(
    slots=48,
    context=768,
    extend_rows=(2, 4, 8),
    extend_tokens=(32, 96),
    decode_rows=(8, 16),
    view_lengths=(192, 320, 448, 576),
    image_shapes=((8, 64), (2, 256)),
    min_pixels=32 * 32 * 4,
    max_pixels=32 * 32 * 64,
)
# Beside the lock-step loop of the same engine. Few shapes: which of them a run meets depends on timing.
SMALL = replace(ENGINE, slots=8, decode_rows=(8,), extend_rows=(2, 8), view_lengths=(256, 512))


class Nowhere:
    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        return []

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        return []


class PacedEpisode(Episode):
    """Takes any text for a search that lasts a given time, and shows a crop and some text."""

    def __init__(self, number: int, waits: Sequence[float], prompt_of: int | None = None):
        rng = np.random.default_rng(number if prompt_of is None else prompt_of)
        super().__init__(
            Question(str(number), _sentence(rng, 40), (_picture(rng, 256),), ("it",)),
            Nowhere(),
            EpisodeConfig(system=_sentence(np.random.default_rng(0), 60)),
        )
        self._waits, self._rng, self._turn = list(waits), rng, 0

    async def step(self, text: str, truncated: bool = False) -> tuple[Part, ...] | None:
        self._turn += 1
        if self._turn == TURNS:
            self.end(StopReason.ANSWERED)
            return None
        await asyncio.sleep(self._waits[self._turn - 1])
        return (_picture(self._rng, 64), _sentence(self._rng, 60))


def _sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


def _picture(rng: np.random.Generator, side: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))


class VariedLengths:
    """A generator whose episodes' turns have unequal limits, drawn from the seed."""

    def __init__(self, generator: Generator):
        self.generator = generator

    async def open(self, seed: int, sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> GeneratorSession:
        return await self.generator.open(seed, replace(sampling, max_new_tokens=turn_limit(seed)), stop_ids)


def turn_limit(seed: int) -> int:
    return int(np.random.default_rng([7, seed]).integers(TOKENS // 2, TOKENS * 3 // 2 + 1))


def waits(number: int, latency: float, varied: bool) -> list[float]:
    factors = np.random.default_rng([9, number]).uniform(0.5, 1.5, TURNS) if varied else np.ones(TURNS)
    return (latency * factors).tolist()


def make_chat(directory: Path) -> ChatFormat:
    from transformers import AutoTokenizer

    train_tokenizer([" ".join(WORDS)] * 4, 400, directory)
    return ChatFormat(AutoTokenizer.from_pretrained(directory))


def make_model(chat: ChatFormat, small: bool) -> tuple[Qwen3VLConfig, dict]:
    ids = chat.tokenizer.get_vocab()
    text = TextConfig(
        vocab_size=2048 if small else 4096,
        hidden_size=192 if small else 256,
        intermediate_size=384 if small else 768,
        num_hidden_layers=5 if small else 6,
        num_attention_heads=6 if small else 8,
        num_key_value_heads=1 if small else 2,
        head_dim=32,
        mrope_section=(6, 5, 5),
        tie_word_embeddings=True,
    )
    vision = VisionConfig(
        depth=4,
        hidden_size=128,
        intermediate_size=512,
        num_heads=4,
        num_position_embeddings=256,
        deepstack_visual_indexes=(1, 2, 3),
        out_hidden_size=text.hidden_size,
    )
    config = Qwen3VLConfig(
        text,
        vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return config, init_params(jax.random.key(0), config)


def make_engines(chat: ChatFormat, settings: EngineConfig, small: bool, count: int = 0) -> Engines:
    config, params = make_model(chat, small)
    weights = sum(x.size for x in jax.tree.leaves(params))
    engines = Engines.on_one_device(config, params, settings, count)
    print(
        f"{weights / 1e6:.1f} M parameters, {settings.slots} slots of {settings.context} tokens, "
        f"{len(engines.all)} engine(s)",
        file=sys.stderr,
    )
    return engines


def decode_host_ms(engine: Engine, calls: int = 500) -> float:
    """Median milliseconds of a decode call of all slots whose program takes every argument and computes nothing."""

    @partial(
        jax.jit,
        static_argnames=("config", "kernels", "size", "forbidden"),
        donate_argnames=("store",),
        keep_unused=True,
    )
    def nothing(
        params: Any, lora: Any, store: Any, packed: PackedDecodeRows, *, size: DecodeSize, **_: Any
    ) -> tuple[Any, Decoded]:
        rows = packed.ints_RI.shape[0]
        token_R = jnp.zeros((size.max_steps, rows), jnp.int32)
        logp, ones_R = jnp.zeros((2, size.max_steps, rows), jnp.float32), jnp.ones(rows, jnp.int32)
        return store, Decoded(token_R, logp, ones_R, ones_R, jnp.zeros(rows, bool))

    sequences = [engine.new_sequence(seed) for seed in range(engine.settings.slots)]
    for sequence in sequences:
        sequence.append_context(engine.prepare(ContextChunk(np.arange(5, 10, dtype=np.int32))))
        engine.acquire(sequence)
    while unread := [sequence for sequence in sequences if sequence.unread]:
        engine.extend(unread)
    requests = [DecodeRequest(sequence, SAMPLING, (1, 2), 16) for sequence in sequences]
    seconds = []
    with mock.patch.object(device, "decode_rows", nothing):
        for _ in range(calls):
            started = time.perf_counter()
            engine.decode(requests)
            seconds.append(time.perf_counter() - started)
            for sequence in sequences:
                sequence.drop_sampled(1)  # back to where it was
    for sequence in sequences:
        engine.release(sequence)
    return float(np.median(seconds) * 1e3)


class Silent(ChatFormat):
    """Never stops early, so that all loops sample the same number of tokens."""

    def __init__(self, chat: ChatFormat):
        super().__init__(chat.tokenizer)
        self.stop_ids = ()


async def ours(
    engines: Engines, chat: ChatFormat, episodes: list[Episode], varied: bool, timeline: Timeline | None = None
) -> tuple[float, list[Trajectory], SchedulerCounts]:
    """(seconds, trajectories, counts of the first engine)."""
    async with engines.running(timeline=timeline) as running:
        started = time.perf_counter()
        generator = VariedLengths(running) if varied else running
        seeds = list(range(len(episodes)))
        done = await run_episodes(generator, episodes, chat, SAMPLING, seeds, timeline=timeline)
        return time.perf_counter() - started, done, running.counts[0]


async def lockstep(engine: Engine, chat: ChatFormat, episodes: list[Episode]) -> tuple[float, int]:
    """(seconds, sampled tokens) of the same engine in waves, every step as one."""
    started, sampled = time.perf_counter(), 0
    slots = engine.settings.slots
    for wave in range(0, len(episodes), slots):
        here = episodes[wave : wave + slots]
        contexts = [chat.prompt(episode.system, episode.prompt()) for episode in here]
        sequences = [engine.new_sequence(wave + i) for i in range(len(here))]
        for sequence in sequences:
            engine.acquire(sequence)
        for _ in range(TURNS):
            for sequence, context in zip(sequences, contexts, strict=True):
                sequence.append_context(engine.prepare(context))
            while unread := [sequence for sequence in sequences if sequence.unread]:
                engine.extend(unread)
            left = [turn_limit(wave + i) for i in range(len(here))]
            while any(left):
                rows = [i for i, n in enumerate(left) if n]
                requests = [DecodeRequest(sequences[i], SAMPLING, (), left[i]) for i in rows]
                for i, out in zip(rows, engine.decode(requests), strict=True):
                    left[i] -= len(out.tokens)
                    sampled += len(out.tokens)
            observations = await asyncio.gather(*(episode.step("") for episode in here))
            contexts = [chat.observation(parts) for parts in observations if parts is not None]
        for sequence in sequences:
            engine.release(sequence)
    return time.perf_counter() - started, sampled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-hf", action="store_true", help="leave out the Hugging Face loop")
    parser.add_argument("--engines", type=int, default=0, help="beside the Hugging Face loop; 0 = as the commands do")
    parser.add_argument("--quick", action="store_true", help="one run of each, of a few conversations")
    parser.add_argument("--trace", type=Path, help="write a Chrome / Perfetto trace of the run with 0.2 s searches")
    args = parser.parse_args()
    repeats, most_waves, beside_hf = (1, 2, 16) if args.quick else (REPEATS, WAVES, BESIDE_HF * ENGINE.slots)
    machine = Machine()
    keep_freed()  # as the commands do; it serves both sides
    out: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        chat = Silent(make_chat(Path(temporary) / "tokenizer"))
        engines = make_engines(chat, SMALL, small=True, count=1)
        (engine,) = engines.all

        def episodes(latency: float, waves: int = most_waves) -> list[Episode]:
            return [PacedEpisode(n, waits(n, latency, varied=True)) for n in range(waves * SMALL.slots)]

        # compiles what it meets; which programs it meets depends on timing
        for latency in (0.0, 0.2, 1.0) * min(2, repeats):
            asyncio.run(ours(engines, chat, episodes(latency, min(8, most_waves)), True))
        rates: dict[str, list[float]] = defaultdict(list)
        for turn in range(repeats):
            for latency in (0.0, 0.2, 1.0):
                timeline = Timeline() if latency == 0.2 else None
                seconds, done, counts = asyncio.run(ours(engines, chat, episodes(latency), True, timeline))
                sampled = sum(trajectory.sampled_tokens for trajectory in done)
                rates[f"{latency:g}s"].append(sampled / seconds)
                print(
                    f"searches of {latency:g} s: {sampled / seconds:7.0f} tokens/s, {seconds:.1f} s; busy "
                    f"{counts.device_seconds / seconds:.1%}, idle with work "
                    f"{counts.starved_seconds / seconds:.1%}, idle for "
                    f"searches {counts.waiting_seconds / seconds:.1%}; {counts.evictions} evictions",
                    file=sys.stderr,
                )
                if timeline is not None:
                    rates["idle"].append(counts.starved_seconds / seconds)
                    if args.trace is not None and turn == 0:
                        timeline.write(args.trace)
            seconds, sampled = asyncio.run(lockstep(engine, chat, episodes(0.2)))
            rates["lockstep"].append(sampled / seconds)
            print(f"lock-step loop of the same engine, 0.2 s: {sampled / seconds:7.0f} tokens/s", file=sys.stderr)
        middle = {name: statistics.median(each) for name, each in rates.items()}
        out["device_idle"] = middle["idle"]
        out["overlap_0.2s"] = middle["0.2s"] / middle["0s"]
        out["overlap_1s"] = middle["1s"] / middle["0s"]
        out["speedup_vs_lockstep_0.2s"] = middle["0.2s"] / middle["lockstep"]

        group: list[Episode] = [PacedEpisode(n, waits(n, 0.0, False), prompt_of=0) for n in range(8)]
        before = replace(engine.counts)
        asyncio.run(ours(engines, chat, group, False))
        first_turn = len(engine.prepare(chat.prompt(group[0].system, group[0].prompt())).expanded.tokens_T) - 1
        out["prefill_saved"] = (engine.counts.shared_tokens - before.shared_tokens) / (8 * first_turn)

        out["decode_host_ms"] = decode_host_ms(engine)
        print(f"a decode call with nothing to compute: {out['decode_host_ms']:.2f} ms", file=sys.stderr)

        started = time.perf_counter()
        if not args.no_hf:
            engines = make_engines(chat, ENGINE, small=False, count=args.engines)
            config, pixels = engines.all[0].config, (ENGINE.min_pixels, ENGINE.max_pixels)
            hf = HfConversations(Path(temporary) / "hf", config, engines.params, chat, SAMPLING, pixels)

            fresh = itertools.count()

            def conversations(latency: float) -> list[Episode]:
                return [PacedEpisode(next(fresh), waits(0, latency, varied=False)) for _ in range(beside_hf)]

            for latency in (0.0, 0.0, 1.0):  # compiles
                asyncio.run(ours(engines, chat, conversations(latency), False))
            for latency, name in ((0.0, "0s"), (1.0, "1s")):
                theirs, kept, mine = [], [], []
                for _ in range(repeats):
                    few = [[PacedEpisode(n, waits(n, latency, varied=False)) for n in range(16)] for _ in range(2)]
                    theirs.append(hf.generated(few[0], TURNS))
                    kept.append(hf.kept(few[1], TURNS))
                    seconds, done, _ = asyncio.run(ours(engines, chat, conversations(latency), False))
                    mine.append(sum(trajectory.sampled_tokens for trajectory in done) / seconds)
                out[f"speedup_vs_lockstep_{name}"] = statistics.median(mine) / statistics.median(theirs)
                out[f"speedup_vs_kept_cache_{name}"] = statistics.median(mine) / statistics.median(kept)
                print(
                    f"{latency:g} s: {statistics.median(mine):.0f} tokens/s, Hugging Face generate "
                    f"{statistics.median(theirs):.0f}, with its cache kept {statistics.median(kept):.0f}",
                    file=sys.stderr,
                )
            print(f"{time.perf_counter() - started:.0f} s for this comparison", file=sys.stderr)
    print(json.dumps({name: round(value, 4) for name, value in out.items()} | {"machine": machine.figures()}))


if __name__ == "__main__":
    main()
