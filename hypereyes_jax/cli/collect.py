"""Collect demonstrations and questions for RL, from any questions and with any model: the paper's first stage.

    hypereyes collect QUESTIONS --model-url http://127.0.0.1:8000/v1 --model NAME --search.service serpapi
    hypereyes collect QUESTIONS --checkpoint DIR --out runs/collect
    hypereyes collect QUESTIONS --trajectories ask.jsonl runs/eval/trajectories-model-seen.jsonl

Questions that a model answers without tools are dropped (and, with `--settings.difficulty`, those that one pass
solves); the others are tried under ascending budgets until the first success, which passes the quality filters or is
dropped; `--settings.selection 5` tries each for RL and writes its reference. Every attempt is kept as it is made:
killed at any moment, the same command continues. A table tells what fell out where.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hypereyes_jax.cli.collection import (
    COLLECTED,
    SERVICES_MAY_DIFFER,
    STAGES_MAY_DIFFER,
    dollars_of,
    make_attempts,
    open_attempts,
    own_objects,
    print_spending,
    print_stages,
)
from hypereyes_jax.cli.source_settings import SourceSettings, refuse_settings_of_demonstrations
from hypereyes_jax.data.collection.types import CollectConfig
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypereyes_jax.data.collection.attempts import AttemptLog
    from hypereyes_jax.data.collection.types import Player
    from hypereyes_jax.data.grounding_judge import LlmGrounding
    from hypereyes_jax.env.judging.judges import Judge
    from hypereyes_jax.env.types import Question

# A question's attempts are kept by its content, so other questions may come; who makes the attempts, and how, may not
# change.
_MAY_DIFFER = (
    frozenset("out questions source model_url filter_model_url prompt_price completion_price".split())
    | {f"settings.{name}" for name in STAGES_MAY_DIFFER}
    | SERVICES_MAY_DIFFER
)


@dataclass(frozen=True)
class CollectSettings:
    questions: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="QUESTIONS")]
    """Questions in any format that `hypereyes data check` reads."""
    model_url: str = ""
    """Base address of an OpenAI-compatible endpoint whose model is sampled. Its key is read from OPENAI_API_KEY."""
    model: str = ""
    """Name of the model at that endpoint."""
    checkpoint: Path | None = None
    """The directory of a checkpoint in Hugging Face layout that is sampled here instead of an endpoint."""
    miniature: bool = False
    """The checkpoint is one of the miniature world's: its context and image sizes are used, and its
    episode settings where --settings.episode does not differ from the defaults."""
    filter_model_url: str = ""
    """Endpoint whose model the necessity and difficulty filters ask; without one, they ask the model that is
    sampled."""
    filter_model: str = ""
    """Name of the model at that endpoint. Its key is read from FILTER_API_KEY."""
    trajectories: tuple[Path, ...] = ()
    """Files of recorded trajectories whose right answers go through the quality filters, instead of sampling. Answers
    that nobody judged yet, as those of `hypereyes ask`, are judged."""
    out: Path = Path("runs/collect")
    """The directory of attempts.jsonl, demonstrations.jsonl, rl_questions.jsonl and funnel.json."""
    temperature: float = 0.8
    """Sampling temperature of episodes."""
    max_new_tokens: int = 1524
    """Number of tokens that one turn may have."""
    context: int = 16_384
    """Number of tokens that one episode may have, for a checkpoint sampled here."""
    prompt_price: float = 0.0
    """Dollars that a million tokens read cost."""
    completion_price: float = 0.0
    """Dollars that a million tokens written cost."""
    settings: CollectConfig = field(default_factory=CollectConfig)
    """The stages that a question goes through."""
    source: SourceSettings = field(default_factory=SourceSettings)
    """The way in which rows are read."""
    search: Annotated[SearchConfig, tyro.conf.EnumChoicesFromValues] = field(default_factory=SearchConfig)
    """The search service that episodes use."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """The judge that says whether an answer is right."""
    judge_grounding: bool = False
    """Let the judge's model say whether the reasoning rests on what was found, in place of a rule."""


def check(config: CollectSettings) -> None:
    """Raises UserError for what the command would refuse before it reads or loads anything."""
    from hypereyes_jax.env.judging.service import check_judge
    from hypereyes_jax.env.own_prompt import check_rules
    from hypereyes_jax.env.search.services import check_search

    check_judge(config.judge)
    check_search(config.search, SearchConfig())
    check_rules(config.settings.episode)
    refuse_settings_of_demonstrations(config.source, "collect")
    ways = [bool(config.model_url), config.checkpoint is not None, bool(config.trajectories)]
    if sum(ways) != 1:
        raise UserError("give one of --model-url (with --model), --checkpoint and --trajectories.")
    if bool(config.model_url) != bool(config.model) or bool(config.filter_model_url) != bool(config.filter_model):
        raise UserError("an endpoint needs its URL and the name of a model there: --model-url with --model.")
    if config.judge_grounding and not config.judge.url:
        raise UserError("--judge-grounding needs a judge that is a chat model: --judge.url and --judge.model.")


def run(config: CollectSettings) -> None:
    from hypereyes_jax.data.sources import open_questions
    from hypereyes_jax.data.sources.openable import openable

    check(config)
    if config.miniature:
        from hypereyes_jax import miniature

        episode = config.settings.episode.over(miniature.EPISODE)
        config = replace(config, settings=replace(config.settings, episode=episode))
    options = config.source.options()
    with open_questions(config.questions, options=options) as source:
        # Pictures are opened before anything is paid for.
        questions = source.select(openable(source, source.report, options.bad_rows))
        for sentence in source.report.left_out():
            print(sentence)
        if config.trajectories:
            # All is made anew each time, whatever is given now, but not over what a sampled collection holds.
            anything = frozenset(each.name for each in fields(config))
            with RunDirectory.open(config.out, "collect --trajectories", config, may_differ=anything, writes=COLLECTED):
                asyncio.run(_recorded(config, questions))
        else:
            asyncio.run(_collect(config, questions))


async def _collect(config: CollectSettings, questions: Sequence[Question]) -> None:
    from hypereyes_jax.data.collection.pipeline import Collection
    from hypereyes_jax.env.judging.service import judging
    from hypereyes_jax.env.search.services import SearchKeys, connected

    keys = SearchKeys.of(os.environ)
    inputs = {"checkpoint": config.checkpoint}
    objects = own_objects(config.settings.episode, config.search, config.judge, (config.questions,))
    async with connected(config.search, keys) as search, judging(config.judge) as judge:
        with open_attempts(config.out, "collect", config, _MAY_DIFFER, inputs, objects) as log:
            async with _player(config) as player, _filter_player(config) as filter_player:
                collection = Collection(
                    log,
                    player,
                    judge,
                    search.backend,
                    config.settings,
                    filter_player=filter_player,
                    dollars=dollars_of(search, config.prompt_price, config.completion_price),
                    grounding=_grounding(config, judge),
                )
                capped = await make_attempts(collection, questions)
            _tell(config, questions, log)
    print_spending(collection, capped, f"--settings.most-dollars {config.settings.most_dollars or 0:g}")


def _grounding(config: CollectSettings, judge: Judge) -> LlmGrounding | None:
    """The judge's model as the one that says whether reasoning is grounded, if it was asked for."""
    from hypereyes_jax.data.grounding_judge import LlmGrounding
    from hypereyes_jax.env.judging.llm_judge import LlmJudge

    return LlmGrounding(judge.client) if config.judge_grounding and isinstance(judge, LlmJudge) else None


@contextlib.asynccontextmanager
async def _player(config: CollectSettings) -> AsyncIterator[Player]:
    if config.checkpoint is None:
        async with _endpoint(config.model_url, config.model, "OPENAI_API_KEY", config) as player:
            yield player
        return
    from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
    from hypereyes_jax.eval.checkpoint_player import CheckpointPlayer
    from hypereyes_jax.eval.policy import load_policy
    from hypereyes_jax.train.sizes import MINIATURE_RL

    slots = config.settings.in_flight
    engine = EngineConfig(slots=slots, context=config.context)
    if config.miniature:
        engine = replace(MINIATURE_RL, slots=slots).engine()
    policy = load_policy(config.checkpoint, engine)
    sampling = SamplingConfig(config.temperature, max_new_tokens=min(config.max_new_tokens, engine.context))
    async with policy.engines.running() as generator:
        yield CheckpointPlayer(str(config.checkpoint), generator, policy.chat, sampling)


@contextlib.asynccontextmanager
async def _filter_player(config: CollectSettings) -> AsyncIterator[Player | None]:
    if not config.filter_model_url:
        yield None
        return
    async with _endpoint(config.filter_model_url, config.filter_model, "FILTER_API_KEY", config) as player:
        yield player


@contextlib.asynccontextmanager
async def _endpoint(url: str, model: str, key: str, config: CollectSettings) -> AsyncIterator[Player]:
    from hypereyes_jax.data.collection.endpoint import EndpointPlayer
    from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint

    client = ChatClient(ChatEndpoint(url, model, os.environ.get(key, ""), in_flight=config.settings.in_flight))
    try:
        yield EndpointPlayer(client, temperature=config.temperature, max_tokens=config.max_new_tokens)
    finally:
        await client.aclose()


def _tell(config: CollectSettings, questions: Sequence[Question], log: AttemptLog) -> None:
    from hypereyes_jax.data.collection.outcome import DEMONSTRATIONS, FUNNEL, RL_QUESTIONS, write_outcome
    from hypereyes_jax.files import write_json

    funnel = write_outcome(config.out, questions, log, config.settings)
    write_json(config.out / FUNNEL, funnel)
    stages = [(row["stage"], row["in"], row["out"], row["dropped"]) for row in funnel["stages"]]
    if config.settings.selection:
        stages.append(("selection", funnel["questions"], funnel["rl_questions"], funnel["not_selected"]))
    print_stages(stages)
    print(f"{funnel['demonstrations']} demonstrations: {config.out / DEMONSTRATIONS}")
    if config.settings.selection:
        print(f"{funnel['rl_questions']} questions for RL, with references: {config.out / RL_QUESTIONS}")


async def _recorded(config: CollectSettings, questions: Sequence[Question]) -> None:
    """Right answers of recorded trajectories, through the filters."""
    from hypereyes_jax.data.collection.outcome import DEMONSTRATIONS, FUNNEL
    from hypereyes_jax.data.collection.recorded import RecordedAnswers
    from hypereyes_jax.env.judging.service import judging
    from hypereyes_jax.eval.recorded_collection import collect_recorded
    from hypereyes_jax.files import write_json

    path = config.out / DEMONSTRATIONS
    async with judging(config.judge) as judge:
        answers = RecordedAnswers(judge, config.settings, _grounding(config, judge))
        count_kept, dropped = await collect_recorded(config.trajectories, questions, answers, path)
    write_json(config.out / FUNNEL, {"demonstrations": count_kept, "dropped": dict(dropped)})
    print(f"{count_kept} demonstrations: {path}")
    for why, count in sorted(dropped.items()):
        print(f"{count} trajectories left out: {why}")
