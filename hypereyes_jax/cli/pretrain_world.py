"""`hypereyes pretrain-world`: makes the miniature's base model from nothing.

The paper starts from a pretrained Qwen3-VL; this is its stand-in for a machine without downloads. What comes out can
read mosaics, write the tool format and copy from its context, but searches wastefully and often wrongly. Killed at any
moment, the same command continues with the round it was in.
"""

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hypereyes_jax import miniature
from hypereyes_jax.cli.synth import examples_hash
from hypereyes_jax.data.base_corpus import BaseCorpusConfig, base_corpus
from hypereyes_jax.data.demonstration import Demonstration
from hypereyes_jax.data.exercises import Exercise, exercises
from hypereyes_jax.files import read_json, write_json
from hypereyes_jax.processing.types import Chunk, ContextChunk, SampledChunk
from hypereyes_jax.runs.progress import duration
from hypereyes_jax.runs.run_directory import RunDirectory, to_jsonable

if TYPE_CHECKING:
    from hypereyes_jax.configs.model import Qwen3VLConfig
    from hypereyes_jax.models.qwen3_vl import Params
    from hypereyes_jax.processing import ChatFormat

NO_SETTINGS = ("out", "report_every")  # make no difference to the result
RECORD = "pretraining.json"  # beside the weights: command, settings, hash of the corpus


@dataclass(frozen=True)
class PretrainConfig:
    """Make a base checkpoint of the miniature world's model."""

    out: Path = Path("runs/base")
    """Directory for the checkpoint (HF layout)."""
    reading_steps: int = 700
    """On the text of small episodes. Alone: mixed with pictures, copying had not appeared after three times as many."""
    reading_entities: int = 4
    """Flags of an episode at most in that lesson."""
    looking_steps: int = 700
    """On where to place boxes, every fourth on reading, every fourth on deciding what fits."""
    clean_steps: int = 1200
    """On episodes without waste, every third on deciding what fits."""
    steps: int = 600
    """On wasteful episodes, every fourth on deciding what fits."""
    again_clean_steps: int = 1100
    """A second round, on all that comes before waste: half on episodes, a quarter each on looking and deciding."""
    again_steps: int = 300
    """On wasteful episodes in the second round."""
    again_rate: float = 0.5
    """Learning rates of the second round, as a share of the first one's."""
    seed: int = 0
    rows_of_512: int = 12
    """Rows of a step for episodes of up to 512 tokens; longer ones go in half as many rows of 1,024."""
    learning_rate: float = 3e-3
    """Adam's, for embeddings and norms."""
    muon_learning_rate: float = 0.02
    """Of the layers' matrices."""
    report_every: int = 100


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


def run(config: PretrainConfig) -> None:
    """Train the tokenizer and the model, and write both."""
    import jax
    from transformers import AutoTokenizer

    from hypereyes_jax.models.pretrained import load_model, save_model
    from hypereyes_jax.models.qwen3_vl import init_params, save_hf
    from hypereyes_jax.processing.chat import ChatFormat
    from hypereyes_jax.processing.tokenizer import train_tokenizer

    directory = RunDirectory.open(config.out / "rounds", "pretrain-world", config, may_differ=frozenset(NO_SETTINGS))
    # The same tokenizer for every seed: models of different runs can score each other's tokens.
    train_tokenizer(_texts(islice(base_corpus(CORPUS, 0), 2000)), miniature.VOCABULARY, config.out)
    chat = ChatFormat(AutoTokenizer.from_pretrained(config.out))
    model = miniature.model_config(chat.tokenizer)
    params = init_params(jax.random.key(config.seed), model)
    print(f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.2f} M parameters")
    minutes = 0.0
    for number, (lessons, rate) in enumerate(_rounds(config)):
        made = directory.file(str(number))
        if not made.exists():
            started = time.perf_counter()
            params = train(
                model,
                params,
                chat,
                lessons,
                config.seed + 1 + 100 * number,
                learning_rate=rate * config.learning_rate,
                muon_learning_rate=rate * config.muon_learning_rate,
                rows=config.rows_of_512,
                report_every=config.report_every,
            )
            spent = round((time.perf_counter() - started) / 60, 1)
            write_json(directory.file(f"{number}.json"), {"minutes": spent})
            save_model(made, model, params, config.out, dtype="bfloat16", pixels=miniature.PIXELS)
        params = load_model(made)[1]
        minutes += read_json(directory.file(f"{number}.json"))["minutes"]
    save_hf(config.out, model, jax.tree.map(lambda x: x.astype("bfloat16"), params))
    record = {
        "command": "hypereyes pretrain-world",
        "minutes": round(minutes, 1),
        "settings": {k: v for k, v in to_jsonable(config).items() if k not in NO_SETTINGS},
        "corpus": to_jsonable(CORPUS),
        "corpus_sha256": corpus_hashes(CORPUS),
    }
    write_json(config.out / RECORD, record)


def _rounds(config: PretrainConfig) -> tuple[tuple[tuple[Lesson, ...], float], ...]:
    """Lessons and the share of the learning rate of each round; a round has its own warm-up and cosine."""
    first = (
        Lesson(config.reading_steps, ("reading",), config.reading_entities),
        Lesson(config.looking_steps, ("looking", "looking", "deciding", "reading")),
        Lesson(config.clean_steps, ("clean", "clean", "deciding")),
        Lesson(config.steps, ("wasteful", "wasteful", "wasteful", "deciding")),
    )
    second = (
        Lesson(config.again_clean_steps, ("clean", "looking", "clean", "deciding")),
        Lesson(config.again_steps, ("wasteful", "wasteful", "wasteful", "deciding")),
    )
    return (first, 1.0), (second, config.again_rate)


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
    import jax

    from hypereyes_jax.learner.learner import LearnerConfig, make_learner
    from hypereyes_jax.learner.optimizer import OptimizerConfig

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
    started, losses = time.perf_counter(), []
    for step in range(1, steps + 1):
        state, metrics = learner.sft_step(state, next(batches))
        losses.append(float(metrics["loss"]))  # waits for the step: dispatch that ran ahead would hold every batch
        if step % report_every == 0:
            seconds = time.perf_counter() - started
            left = duration(seconds / step * (steps - step))
            print(f"step {step}/{steps}  loss {float(np.mean(losses)):.4f}  {left} left", flush=True)
            losses = []
    return state.trainable


def corpus_hashes(corpus: BaseCorpusConfig, samples: int = 64) -> dict[str, str]:
    """sha256 over some samples of each kind of lesson: whether code and data still make the corpus of a record."""
    clean = replace(corpus, clean=True)

    def episodes(config: BaseCorpusConfig, rounds: int | None = None) -> str:
        return examples_hash(made.example for made in islice(base_corpus(config, 0, rounds), samples))

    digest = hashlib.sha256()
    for exercise in islice(exercises(corpus, 0), samples):
        digest.update(repr((exercise.question, exercise.turn)).encode())
    return {
        "wasteful": episodes(corpus),
        "clean": episodes(clean),
        "looking": episodes(clean, rounds=1),
        "deciding": digest.hexdigest(),
    }


def _texts(demonstrations: Iterator[Demonstration]) -> Iterator[str]:
    for demonstration in demonstrations:
        for parts, turn in zip(demonstration.example.observations, demonstration.example.turns, strict=True):
            yield "user\n" + "".join(part for part in parts if isinstance(part, str)) + "\n"
            yield "assistant\n"
            yield turn


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
    from hypereyes_jax.learner.packing import PackConfig, first_fit_decreasing, pack, sft_sample

    vision = (int(pictures), 192) if pictures else None  # 192 patches are a mosaic, or some 16 crops
    pools: dict[int, list[tuple[int, int, Any]]] = {512: [], miniature.CONTEXT: []}
    for chunks in samples:
        length, patches = miniature.episode_tokens(chunks), 4 * miniature.episode_visual_tokens(chunks)
        if not 0 < length <= miniature.CONTEXT:
            continue
        row = 512 if length <= 512 else miniature.CONTEXT
        here = rows * 512 // row
        wanted = [*pools[row], (length, patches, sft_sample(chunks))]
        crowded = vision is not None and sum(each[1] for each in wanted) > 0.9 * vision[0] * vision[1]
        if crowded or len(first_fit_decreasing([each[0] for each in wanted], row)) > here:
            settings = PackConfig(
                row_tokens=(row,), rows=here, micro_batches=1, weighting="token-mean", vision=vision,
                min_pixels=miniature.MIN_PIXELS, max_pixels=miniature.MAX_PIXELS,
            )  # fmt: skip
            yield pack(model, [sample for _, _, sample in pools[row]], settings)
            wanted = wanted[-1:]
        pools[row] = wanted


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
    made: queue.Queue[Any] = queue.Queue(depth)

    def work() -> None:
        if sys.platform == "linux":  # there a thread has its own priority
            # With equal rights it takes a core from a matmul, whose other half then waits: steps took twice as long.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            for item in items:
                made.put((item, None))
        except BaseException as error:  # raised where the item is wanted
            made.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    while True:
        item, error = made.get()
        if error is not None:
            raise error
        yield item
