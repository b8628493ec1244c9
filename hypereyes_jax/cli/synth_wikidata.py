"""Make questions of several constraints that one entity meets, from a Wikidata dump or saved SPARQL results.

    hypereyes synth-wikidata latest-all.json.bz2 --classes Q5 Q3957 --min-sitelinks 10 --count 5000
    hypereyes synth-wikidata results.json --sparql --count 100

The dump is streamed into `graph.sqlite` of the output folder; the same command continues where it was stopped. With a
chat model (--llm.url, key from OPENAI_API_KEY) questions are put in its words and checked; without, templates write.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hypereyes_jax.cli.collection import SERVICES_MAY_DIFFER
from hypereyes_jax.cli.synth_photos import LlmConfig
from hypereyes_jax.env.search.config import SearchConfig, SearchKeys
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import write_json
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from hypereyes_jax.data.wikidata import Graph
    from hypereyes_jax.data.wikidata.walks import WalkConfig
    from hypereyes_jax.env.types import Question

_PART = 50  # questions a file of the folder `parts`
_WRITES = ("questions.jsonl", "synth_wikidata.json", "parts", "graph.sqlite")


@dataclass(frozen=True)
class SynthWikidataConfig:
    dump: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE [FILE ...]")]
    """A JSON dump (plain, gz, bz2 or xz) or, with --sparql, files of saved query results."""
    out: Path = Path("runs/wikidata")
    """The folder for the graph, questions.jsonl and a summary."""
    count: int = 100
    """Number of questions to make."""
    sparql: bool = False
    """The files are SPARQL results in JSON, with the variables s, p, o, sLabel, pLabel and oLabel."""
    classes: tuple[str, ...] = ()
    """Classes whose instances are read from a dump, by their ids, such as Q5; without any, all items are read."""
    subclasses: bool = False
    """Read instances of subclasses (P279) of the classes, too, which takes one more pass over the dump."""
    min_sitelinks: int = 0
    """Fewest Wikipedia pages that an item of a dump must have to be read."""
    language: str = "en"
    """Language of the labels that are read."""
    hops: int = 3
    """Number of steps of the walk that collects candidates."""
    constraints: tuple[int, int] = (2, 4)
    """Smallest and largest number of constraints that one question states."""
    answers: int = 1
    """Number of entities that may meet all constraints."""
    closed: bool = False
    """Refuse a question that another entity might satisfy because the graph lacks a statement about it."""
    ask_rivals: int = 0
    """Number of rival entities per question that the search service is asked about: statements missing from the graph
    could make them fit, too. A question with a rival that fits is left out. 0 asks about none."""
    search: Annotated[SearchConfig, tyro.conf.EnumChoicesFromValues] = field(default_factory=SearchConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    seed: int = 0
    """Seed of all random draws."""


def run(config: SynthWikidataConfig) -> None:
    from hypereyes_jax.data.wikidata import DumpConfig, Graph, read_dump, read_sparql, refuse_other_files
    from hypereyes_jax.data.wikidata.walks import WalkConfig
    from hypereyes_jax.env.chat.client import ChatError
    from hypereyes_jax.env.types import SearchError

    if not config.dump or (len(config.dump) > 1 and not config.sparql):
        raise UserError("give one dump, or with --sparql one file of results or more.")
    of_dumps = config.classes or config.subclasses or config.min_sitelinks or config.language != "en"
    if config.sparql and of_dumps:
        raise UserError(
            "--classes, --subclasses, --min-sitelinks and --language belong to a dump: put them into the query instead."
        )
    if config.subclasses and not config.classes:
        raise UserError("--subclasses needs --classes: without any, items of all classes are read.")
    if config.llm.model and not config.llm.url:
        raise UserError("--llm.model needs --llm.url: without an endpoint, templates write.")
    if config.count < 1:
        raise UserError("--count must be 1 or more.")
    if config.ask_rivals < 0:
        raise UserError("--ask-rivals must be 0 or more.")
    if config.ask_rivals and config.search.service == "world":
        raise UserError("--ask-rivals needs a service that knows more than the miniature: see --search.service.")
    if config.llm.url and not config.llm.model:
        raise UserError("--llm.url needs --llm.model.")
    low, high = config.constraints
    try:
        rules = WalkConfig(config.hops, low, high, answers=config.answers, closed=config.closed)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    for path in config.dump:
        if not path.is_file():
            raise UserError(f"there is no file {path}. Give a dump, or results of a query with --sparql.")
    may_differ = frozenset({"out", "dump", "count", "llm.url"}) | SERVICES_MAY_DIFFER
    directory = RunDirectory.open(config.out, "synth-wikidata", config, may_differ=may_differ, writes=_WRITES)
    with Graph(directory.file("graph.sqlite")) as graph, Stages() as stages:
        lines = 0

        def report_progress(more: int) -> None:
            nonlocal lines
            lines += more
            stages.console.print(f"{lines:,} lines of the dump read", highlight=False)

        if config.sparql:
            refuse_other_files(config.dump, graph)
        with stages.stage("statements", len(config.dump)) as stage:
            for path in config.dump:
                if config.sparql:
                    counts = read_sparql(path, graph)
                else:
                    dump = DumpConfig(config.classes, config.subclasses, config.language, config.min_sitelinks)
                    counts = read_dump(path, graph, dump, report_progress)
                stage.advance()
        try:
            questions, dropped = asyncio.run(_make(config, directory, graph, rules, stages))
        except ChatError as error:
            raise UserError(f"the chat model can't be used: {error}. What was made is kept.") from error
        except SearchError as error:
            raise UserError(f"the search service can't be used: {error}. What was made is kept.") from error
    summary = {"questions": len(questions), "dropped": dict(dropped), "rows": counts, "licence": "CC0 (Wikidata)"}
    write_json(directory.file("synth_wikidata.json"), summary)
    print(f"{config.out}: {summary}")


async def _make(
    config: SynthWikidataConfig, directory: RunDirectory, graph: Graph, rules: WalkConfig, stages: Stages
) -> tuple[list[Question], Counter[str]]:
    """All questions, in parts of 50 that are stored as they are made."""
    import numpy as np

    from hypereyes_jax.data.files import read_questions, write_questions
    from hypereyes_jax.data.wikidata.questions import RivalSearch, make_questions
    from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint
    from hypereyes_jax.env.search.services import check_search, connected

    check_search(config.search, SearchConfig())
    questions: list[Question] = []
    dropped: Counter[str] = Counter()
    async with contextlib.AsyncExitStack() as open_clients:
        client: ChatClient | None = None
        rivals: RivalSearch | None = None
        if config.llm.url:
            client = ChatClient(ChatEndpoint(config.llm.url, config.llm.model, os.environ.get("OPENAI_API_KEY", "")))
            open_clients.push_async_callback(client.aclose)
        if config.ask_rivals:
            service = await open_clients.enter_async_context(connected(config.search, SearchKeys.of(os.environ)))
            rivals = RivalSearch(service.backend, config.ask_rivals)
        with stages.stage("questions", config.count) as stage:
            for start in range(0, config.count, _PART):
                part = directory.part(start)
                size = min(_PART, config.count - start)
                batch = read_questions(part) if part.exists() else []
                if len(batch) != size:
                    rng = np.random.default_rng([config.seed, start])
                    answers = {question.answers[0] for question in questions}
                    prefix = f"wikidata-{start}"
                    batch = await make_questions(graph, rng, rules, size, prefix, client, answers, dropped, rivals)
                    write_questions(part, batch)
                questions += batch
                for _ in batch:
                    stage.advance()
    write_questions(directory.file("questions.jsonl"), questions)
    return questions, dropped
