"""Make the miniature's base model from nothing.

The paper starts from a pretrained Qwen3-VL; this is its stand-in for a machine without downloads. What comes out can
read mosaics, write the tool format and copy from its context, but searches wastefully and often wrongly. Killed at any
moment, the same command continues with the round it was in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hypereyes_jax import miniature
from hypereyes_jax.files import read_json, write_json
from hypereyes_jax.runs.run_directory import RunDirectory, to_jsonable
from hypereyes_jax.runs.written_models import model_is_written, note_model

if TYPE_CHECKING:
    from hypereyes_jax.data.demonstration import Demonstration
    from hypereyes_jax.train.pretraining import Lesson

NO_SETTINGS = ("out", "report_every")  # make no difference to the result
RECORD = "pretraining.json"  # beside the weights: command, settings, hash of the corpus


@dataclass(frozen=True)
class PretrainConfig:
    """Make a base checkpoint of the miniature world's model."""

    out: Path = Path("runs/base")
    """The directory for the checkpoint, in Hugging Face layout."""
    reading_steps: int = 700
    """Number of steps on the text of small episodes. They come alone: mixed with pictures, copying had not appeared
    after three times as many."""
    reading_entities: int = 4
    """Number of flags of an episode at most in that lesson."""
    looking_steps: int = 700
    """Number of steps on where to place boxes, every fourth of them on reading, every fourth on deciding what fits."""
    clean_steps: int = 1200
    """Number of steps on episodes without waste, every third of them on deciding what fits."""
    steps: int = 600
    """Number of steps on wasteful episodes, every fourth of them on deciding what fits."""
    again_clean_steps: int = 1100
    """Number of steps of a second round on all that comes before waste: half on episodes, a quarter each on looking and
    deciding."""
    again_steps: int = 300
    """Number of steps on wasteful episodes in the second round."""
    again_rate: float = 0.5
    """Learning rates of the second round, as a share of the first one's."""
    seed: int = 0
    """Seed of the weights and of the corpus."""
    rows_of_512: int = 12
    """Number of rows of a step for episodes of up to 512 tokens; longer ones go in half as many rows of 1,024."""
    learning_rate: float = 3e-3
    """Learning rate of Adam, for embeddings and norms."""
    muon_learning_rate: float = 0.02
    """Learning rate of Muon, for the layers' matrices."""
    report_every: int = 100
    """Number of steps between two lines of progress."""


def run(config: PretrainConfig) -> None:
    """Train the tokenizer and the model, and write both."""
    import jax

    from hypereyes_jax.data.base_corpus import base_corpus
    from hypereyes_jax.models.pretrained import load_model, save_model
    from hypereyes_jax.models.qwen3_vl import init_params, save_hf
    from hypereyes_jax.processing.chat import ChatFormat
    from hypereyes_jax.processing.tokenizer import load_tokenizer, train_tokenizer
    from hypereyes_jax.train.pretraining import CORPUS, corpus_hashes, train

    directory = RunDirectory.open(config.out / "rounds", "pretrain-world", config, may_differ=frozenset(NO_SETTINGS))
    # The same tokenizer for every seed: models of different runs can score each other's tokens.
    train_tokenizer(_texts(islice(base_corpus(CORPUS, 0), 2000)), miniature.VOCABULARY, config.out)
    chat = ChatFormat(load_tokenizer(config.out))
    model = miniature.model_config(chat.tokenizer)
    params = init_params(jax.random.key(config.seed), model)
    print(f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.2f} M parameters")
    minutes = 0.0
    for number, (lessons, rate) in enumerate(_rounds(config)):
        folder = directory.file(str(number))
        if not model_is_written(directory, folder.name):
            start = time.perf_counter()
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
            total_minutes = round((time.perf_counter() - start) / 60, 1)
            write_json(directory.file(f"{number}.json"), {"minutes": total_minutes})
            save_model(folder, model, params, config.out, dtype="bfloat16", pixels=miniature.PIXELS)
            note_model(directory, folder.name)
        params = load_model(folder)[1]
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
    from hypereyes_jax.train.pretraining import Lesson

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


def _texts(demonstrations: Iterator[Demonstration]) -> Iterator[str]:
    for demonstration in demonstrations:
        for parts, turn in zip(demonstration.example.observations, demonstration.example.turns, strict=True):
            yield "user\n" + "".join(part for part in parts if isinstance(part, str)) + "\n"
            yield "assistant\n"
            yield turn
