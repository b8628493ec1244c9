"""Base training of the miniature's model from nothing: lessons, their batches, and the loop."""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import jax
import numpy as np

from hypereyes_jax import miniature
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig, PackConfig
from hypereyes_jax.data.base_corpus import BaseCorpusConfig, base_corpus
from hypereyes_jax.data.demonstration import examples_hash
from hypereyes_jax.data.exercises import Exercise, exercises
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import first_fit_decreasing, pack, sft_sample
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.processing.chat import ChatFormat
from hypereyes_jax.processing.lengths import episode_tokens, episode_visual_tokens
from hypereyes_jax.processing.types import Chunk, ContextChunk, SampledChunk
from hypereyes_jax.runs.progress import duration

Kind = Literal["reading", "looking", "deciding", "clean", "wasteful"]


# Rows of patches for each row of tokens.
VISION_ROWS: dict[Kind, float] = {"reading": 0, "looking": 4, "deciding": 0, "clean": 2.5, "wasteful": 2.5}


CORPUS = BaseCorpusConfig(episode=miniature.EPISODE)


@dataclass(frozen=True)
class Lesson:
    """Steps that take a batch of each kind in turn."""

    steps: int
    kinds: tuple[Kind, ...]
    entities: int = CORPUS.synthesis.max_entities  # at most, where there is no waste


def train(
    model: Qwen3VLConfig,
    params: Params,
    chat: ChatFormat,
    lessons: Sequence[Lesson],
    seed: int,
    *,
    learning_rate: float,
    muon_learning_rate: float | None = None,
    rows: int = 12,
    report_every: int = 100,
) -> Params:
    """Weights after base training; `seed` is that of the corpus."""
    steps = sum(lesson.steps for lesson in lessons)
    optimizer = OptimizerConfig(
        learning_rate=learning_rate,
        final_learning_rate=0.02 * learning_rate,
        warmup_steps=min(100, max(1, steps // 10)),
        total_steps=steps,
        muon_learning_rate=muon_learning_rate,
        b2=0.98,
        weight_decay=0.01,
    )
    learner = make_learner(model, LearnerConfig(optimizer=optimizer))
    state = learner.init(jax.random.key(seed), params)
    batches = _ahead(
        batch for i, lesson in enumerate(lessons) for batch in _lesson(model, chat, lesson, seed + i, rows)
    )
    start, losses = time.perf_counter(), []
    for step in range(1, steps + 1):
        state, metrics = learner.sft_step(state, next(batches))
        losses.append(float(metrics["loss"]))  # waits for the step: dispatch that ran ahead would hold every batch
        if step % report_every == 0:
            seconds = time.perf_counter() - start
            time_left = duration(seconds / step * (steps - step))
            print(f"step {step}/{steps}  loss {float(np.mean(losses)):.4f}  {time_left} left", flush=True)
            losses = []
    return state.trainable


def corpus_hashes(corpus: BaseCorpusConfig, samples: int = 64) -> dict[str, str]:
    """sha256 over some samples of each kind of lesson: whether code and data still make the corpus of a record."""
    clean = replace(corpus, clean=True)

    def episodes(config: BaseCorpusConfig, rounds: int | None = None) -> str:
        return examples_hash(demonstration.example for demonstration in islice(base_corpus(config, 0, rounds), samples))

    digest = hashlib.sha256()
    for exercise in islice(exercises(corpus, 0), samples):
        digest.update(repr((exercise.question, exercise.turn)).encode())
    return {
        "wasteful": episodes(corpus),
        "clean": episodes(clean),
        "looking": episodes(clean, rounds=1),
        "deciding": digest.hexdigest(),
    }


def _lesson(model: Qwen3VLConfig, chat: ChatFormat, lesson: Lesson, seed: int, rows: int) -> Iterator[Any]:
    """The lesson's packed batches."""
    streams = [
        _batches(
            model, _samples(model, chat, kind, lesson.entities, seed + 1000 * place), VISION_ROWS[kind] * rows, rows
        )
        for place, kind in enumerate(lesson.kinds)
    ]
    for step in range(lesson.steps):
        yield next(streams[step % len(streams)])


def _samples(
    model: Qwen3VLConfig, chat: ChatFormat, kind: Kind, entities: int, seed: int
) -> Iterator[tuple[Chunk, ...]]:
    """What each kind of lesson reads, endless."""
    if kind == "deciding":
        for exercise in exercises(CORPUS, seed):
            yield _exercise(chat, exercise)
        return
    corpus = CORPUS if kind == "wasteful" else replace(CORPUS, clean=True, clean_entities=entities)
    for demonstration in base_corpus(corpus, seed, rounds=1 if kind == "looking" else None):
        chunks = tuple(demonstration.example.chunks(chat))
        if kind == "looking":
            if _images(chunks[0]):
                yield chunks[:2]
        else:
            yield _read(chunks, model.vision_end_token_id) if kind == "reading" else chunks


def _batches(model: Qwen3VLConfig, samples: Iterator[tuple[Chunk, ...]], pictures: float, rows: int) -> Iterator[Any]:
    """Batches of near-equal size, all short or all long, in a few fixed shapes."""
    vision = (int(pictures), 192) if pictures else None  # 192 patches are a mosaic, or some 16 crops
    pools: dict[int, list[tuple[int, int, Any]]] = {512: [], miniature.CONTEXT: []}
    for chunks in samples:
        length = episode_tokens(chunks, miniature.MIN_PIXELS, miniature.MAX_PIXELS)
        patches = 4 * episode_visual_tokens(chunks, miniature.MIN_PIXELS, miniature.MAX_PIXELS)
        if not 0 < length <= miniature.CONTEXT:
            continue
        row = 512 if length <= 512 else miniature.CONTEXT
        here = rows * 512 // row
        pool = [*pools[row], (length, patches, sft_sample(chunks))]
        crowded = vision is not None and sum(each[1] for each in pool) > 0.9 * vision[0] * vision[1]
        if crowded or len(first_fit_decreasing([each[0] for each in pool], row)) > here:
            settings = PackConfig(
                row_lengths=(row,), rows=here, micro_batches=1, weighting="token-mean", vision=vision,
                min_pixels=miniature.MIN_PIXELS, max_pixels=miniature.MAX_PIXELS,
            )  # fmt: skip
            yield pack(model, [sample for _, _, sample in pools[row]], settings)
            pool = pool[-1:]
        pools[row] = pool


def _sampled(tokens: np.ndarray) -> SampledChunk:
    """Tokens that are trained on, wherever they come from."""
    zeros = np.zeros(len(tokens), np.float32)
    return SampledChunk(tokens, zeros, zeros, np.zeros(len(tokens), np.int32))


def _read(chunks: Sequence[Chunk], vision_end: int) -> tuple[Chunk, ...]:
    """An episode without its pictures, all of whose text is trained on as if it had been sampled.

    A language model predicts what the world says, too: search results repeat queries and names, which teaches to copy
    long before the few tokens of the turns would. The turns that place boxes are left out: nobody could predict those.
    """
    out: list[Chunk] = []
    for place, chunk in enumerate(chunks):
        if isinstance(chunk, SampledChunk):
            blind = place + 1 < len(chunks) and bool(_images(chunks[place + 1]))
            out += [] if blind else [chunk]
            continue
        ends = np.flatnonzero(chunk.tokens == vision_end)
        text = chunk.tokens[int(ends[-1]) + 1 if len(ends) else 0 :]
        out.append(_sampled(text))
    return tuple(out)


def _exercise(chat: ChatFormat, exercise: Exercise) -> tuple[Chunk, ...]:
    """The question and what was read as context; only decisions are trained on."""
    out: list[Chunk] = [chat.prompt("", (exercise.question,))]
    for text, decides in exercise.turn:
        tokens = np.asarray(chat.encode(text), np.int32)
        out.append(_sampled(tokens) if decides else ContextChunk(tokens, ()))
    return tuple(out)


def _images(chunk: Chunk) -> tuple[Any, ...]:
    return chunk.images if isinstance(chunk, ContextChunk) else ()


def _ahead(items: Iterator[Any], depth: int = 4) -> Iterator[Any]:
    """The same items, made in a thread ahead of their use."""
    buffer: queue.Queue[Any] = queue.Queue(depth)

    def work() -> None:
        if sys.platform == "linux":  # there a thread has its own priority
            # With equal rights it takes a core from a matmul, whose other half then waits: steps took twice as long.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            for item in items:
                buffer.put((item, None))
        except BaseException as error:  # raised where the item is wanted
            buffer.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    while True:
        item, error = buffer.get()
        if error is not None:
            raise error
        yield item
