"""Make questions over mosaics of real photos: a knowledge base of each class, mosaics, questions, checks.

    hypereyes synth-photos cub ~/sets/CUB --facts birds.json --count 100                      # offline, by templates
    hypereyes synth-photos cub ~/sets/CUB --search.service serpapi --llm.url URL --llm.model NAME --count 20000

The knowledge base is a folder of JSON files, one a class, that a person may read and correct. If the command was
stopped, give it again to continue. Keys come from the environment: OPENAI_API_KEY, SERPAPI_API_KEY, AWS_ACCESS_KEY_ID
and AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from hypereyes_jax.cli.collection import SERVICES_MAY_DIFFER
from hypereyes_jax.env.search.config import SearchConfig, SearchKeys
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json, write_json
from hypereyes_jax.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from hypereyes_jax.data.knowledge import KnowledgeEntry
    from hypereyes_jax.data.photos import PhotoSet
    from hypereyes_jax.env.chat.client import ChatClient
    from hypereyes_jax.env.types import Question
    from hypereyes_jax.runs.progress import Stages

_PART = 50  # questions a file of the folder `parts`
_WRITES = ("questions.jsonl", "synth_photos.json", "parts", "knowledge")


@dataclass(frozen=True)
class LlmConfig:
    """The chat model that structures pages, writes questions and solves them."""

    url: str = ""
    """Base address of an OpenAI-compatible endpoint; without one, templates write the questions from known facts."""
    model: str = ""
    """Name of the model at that endpoint. The key is read from OPENAI_API_KEY."""
    looks: bool = True
    """Whether the model can see pictures, so that a question that it answers from the picture alone is dropped."""


@dataclass(frozen=True)
class SynthPhotosConfig:
    photos: tyro.conf.Positional[Literal["cub", "flowers", "cars", "aircraft", "pets", "folders"]]
    """Name of the photo set; `folders` takes any folder that has a folder for each class."""
    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """The directory that the set was unpacked to, or that holds its parquet files."""
    out: Path = Path("runs/photos")
    """The folder for questions.jsonl, the knowledge base and a summary."""
    count: int = 100
    """Number of questions to make."""
    facts: Path | None = None
    """A JSON file {class: {field: value}} that is used instead of searches: a knowledge base for work offline."""
    fields: dict[str, Literal["number", "text"]] = field(default_factory=dict)
    """Fields that are asked for instead of the set's own, each a number or a string."""
    min_entities: int = 2
    """Fewest photos that one question shows."""
    max_entities: int = 8
    """Most photos that one question shows."""
    drop_one: bool = True
    """Make only questions that need every photo."""
    splits: tuple[str, ...] = ()
    """Splits of the photo set that are used: train, val or test; without any, all are."""
    search: Annotated[SearchConfig, tyro.conf.EnumChoicesFromValues] = field(default_factory=SearchConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    seed: int = 0
    """Seed of all random draws."""


def run(config: SynthPhotosConfig) -> None:
    from hypereyes_jax.data.photos import open_photos
    from hypereyes_jax.env.chat.client import ChatError
    from hypereyes_jax.runs.progress import Stages

    if config.count < 1:
        raise UserError("--count must be 1 or more.")
    if config.facts is None and not config.llm.url:
        raise UserError("give --facts FILE, or a chat model (--llm.url, --llm.model) and a search service.")
    if config.facts is None and config.search.service == "world":
        raise UserError(
            "the miniature's world knows no photos. Give --search.service serpapi or retriever, or --facts."
        )
    if config.llm.url and not config.llm.model:
        raise UserError("--llm.url needs --llm.model.")
    if config.llm.model and not config.llm.url:
        raise UserError("--llm.model needs --llm.url: without an endpoint, templates write from --facts.")
    photos = open_photos(config.photos, config.root)
    photos.refuse_unknown_splits(config.splits)
    for note in photos.notes:
        print(note)
    if config.facts is not None:
        _facts(config.facts)  # before anything is made
    inputs = {"facts": config.facts}
    may_differ = frozenset({"out", "root", "count", "llm.url"}) | SERVICES_MAY_DIFFER
    directory = RunDirectory.open(
        config.out, "synth-photos", config, may_differ=may_differ, inputs=inputs, writes=_WRITES
    )
    try:
        with directory, Stages() as stages:
            summary = asyncio.run(_make(config, directory, photos, stages))
    except ChatError as error:
        raise UserError(f"the chat model can't be used: {error}. What was made is kept.") from error
    print(f"{config.out}: {summary}")


async def _make(
    config: SynthPhotosConfig, directory: RunDirectory, photos: PhotoSet, stages: Stages
) -> dict[str, object]:
    from hypereyes_jax.data.files import read_questions, write_questions
    from hypereyes_jax.data.knowledge import fields_of
    from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint

    names: dict[str, tuple[str, str]] = {name: (name, kind) for name, kind in config.fields.items()}
    fields = names or fields_of(photos.name)
    client = None
    if config.llm.url:
        client = ChatClient(ChatEndpoint(config.llm.url, config.llm.model, os.environ.get("OPENAI_API_KEY", "")))
    dropped: Counter[str] = Counter()
    try:
        knowledge, counts = await _knowledge(config, photos, fields, client, stages)
        questions: list[Question] = []
        with stages.stage("questions", config.count) as stage:
            for start in range(0, config.count, _PART):
                part = directory.part(start)
                size = min(_PART, config.count - start)
                batch = read_questions(part) if part.exists() else []
                if len(batch) != size:
                    batch = await _questions(config, photos, knowledge, fields, client, start, size, dropped)
                    write_questions(part, batch)
                questions += batch
                for _ in batch:
                    stage.advance()
    finally:
        if client is not None:
            await client.aclose()
    write_questions(config.out / "questions.jsonl", questions)
    summary: dict[str, object] = {
        "questions": len(questions),
        "kinds": dict(Counter(question.kind for question in questions)),
        "dropped": dict(dropped),
        "licence": photos.licence,
        **counts,
    }
    write_json(config.out / "synth_photos.json", summary)
    return summary


def _facts(path: Path) -> dict[str, dict[str, object]]:
    """Facts by class. Raises UserError for a file that holds none."""
    value = read_json(path, "Write it as one JSON object {class: {field: value}}.")
    if not isinstance(value, dict) or not all(isinstance(facts, dict) for facts in value.values()):
        raise UserError(f"{path} must be an object {{class: {{field: value}}}}.")
    return value


def _of_classes(facts: dict[str, dict[str, object]], photos: PhotoSet, path: Path) -> dict[str, dict[str, object]]:
    """Facts under the names that the classes have, whatever case and punctuation a file writes them in; says which
    classes have none. Raises UserError if none has any."""
    from hypereyes_jax.env.judging.judges import normalise

    classes = {normalise(label): label for label in photos.classes} | {label: label for label in photos.classes}
    names = {name: classes.get(name, classes.get(normalise(name))) for name in facts}
    of_classes = {label: facts[name] for name, label in names.items() if label is not None}
    missing = [label for label in photos.classes if label not in of_classes]
    if not of_classes:
        raise UserError(
            f"{path} names none of the classes of {photos.name}: it has {', '.join(list(facts)[:3]) or 'none'}, and "
            f"they are {', '.join(photos.classes[:3])}, ..."
        )
    if missing:
        print(f"{len(missing)} of {len(photos.classes)} classes have no facts in {path} (such as {missing[0]})")
    return of_classes


async def _knowledge(
    config: SynthPhotosConfig,
    photos: PhotoSet,
    fields: dict[str, tuple[str, str]],
    client: ChatClient | None,
    stages: Stages,
) -> tuple[dict[str, KnowledgeEntry], dict[str, object]]:
    from functools import partial

    from hypereyes_jax.data.knowledge import dictionary_knowledge, read_knowledge
    from hypereyes_jax.data.knowledge_build import build_knowledge
    from hypereyes_jax.env.search.services import check_search, connected

    check_search(config.search, SearchConfig())
    if config.facts is not None:
        facts = _of_classes(_facts(config.facts), photos, config.facts)
        return dictionary_knowledge(facts, str(config.facts.name)), {}
    assert client is not None
    folder = config.out / "knowledge"
    keys = SearchKeys.of(os.environ)
    openers = {label: partial(photos.open, images[0]) for label, images in photos.by_class.items()}
    async with connected(config.search, keys) as (backend, metrics):
        with stages.stage("knowledge", len(openers)) as stage:
            outcome = await build_knowledge(openers, fields, photos.subject, folder, backend, client)
            for _ in openers:
                stage.advance()
    if outcome.failed:
        first = next(iter(outcome.failed.values()))
        print(f"{len(outcome.failed)} classes have no knowledge yet ({first}); the same command tries them again")
    about = {
        "classes": outcome.built + outcome.kept,
        "classes failed": len(outcome.failed),
        "facts refused": outcome.refused,
        "searches": outcome.searches,
        "dollars": metrics.summary()["cost"],
    }
    return read_knowledge(folder), about


async def _questions(
    config: SynthPhotosConfig,
    photos: PhotoSet,
    knowledge: dict[str, KnowledgeEntry],
    fields: dict[str, tuple[str, str]],
    client: ChatClient | None,
    start: int,
    count: int,
    dropped: Counter[str],
) -> list[Question]:
    """One part: the same for the same settings where templates write."""
    import numpy as np

    from hypereyes_jax.data.photo_questions import PhotoConfig, draw_photo_question
    from hypereyes_jax.data.question_writer import written_questions

    rng = np.random.default_rng([config.seed, start])
    rules = PhotoConfig(config.min_entities, config.max_entities, config.drop_one, splits=config.splits)
    name = f"{photos.name}-{config.seed}"
    if client is None:
        return [
            draw_photo_question(photos, knowledge, fields, rng, rules, f"{name}-{start + number}")
            for number in range(count)
        ]
    looks = config.llm.looks
    questions, why = await written_questions(photos, knowledge, rng, rules, client, looks, count, f"{name}-{start}")
    dropped.update(why)
    return questions
