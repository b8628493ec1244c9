"""The paper's curation from one file: pools of questions to an SFT set, and with the model after SFT to an RL set.

    hypereyes curate curation.yaml --out runs/curation                 # pools -> filters -> sampling -> SFT set
    hypereyes curate curation.yaml --out runs/curation --stage rl      # after SFT: tries of the policy -> RL set

Every attempt is kept as it is made: killed at any moment, the same command continues. funnel.html shows what fell out
where, with examples. Keys come from the environment: those that the file names, SERPAPI_API_KEY, AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from hypereyes_jax.cli.collection import (
    SERVICES_MAY_DIFFER,
    STAGES_MAY_DIFFER,
    dollars_of,
    make_attempts,
    open_attempts,
    own_objects,
    price_of,
    print_spending,
    print_stages,
)
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.run_directory import to_jsonable

if TYPE_CHECKING:
    from hypereyes_jax.data.collection.attempts import AttemptLog
    from hypereyes_jax.data.collection.types import CollectConfig, Player
    from hypereyes_jax.data.curation.funnel import Funnel
    from hypereyes_jax.data.curation.pools import PooledQuestions
    from hypereyes_jax.data.curation.types import CurationConfig, ModelConfig
    from hypereyes_jax.env.types import Question

_MODEL_MAY_DIFFER = ("url", "key_env", "prompt_price", "completion_price")
_MAY_DIFFER = (
    frozenset(f"{role}.{name}" for role in ("sampler", "filter_model", "policy") for name in _MODEL_MAY_DIFFER)
    | STAGES_MAY_DIFFER
    | SERVICES_MAY_DIFFER
)


@dataclass(frozen=True)
class CurateConfig:
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The curation file, in YAML (docs/collect.md)."""
    out: Path = Path("runs/curation")
    """Directory of the attempts, the SFT set, the RL set, funnel.json and funnel.html."""
    stage: Literal["sft", "rl"] = "sft"
    """Which set to make: the SFT set, or the RL set, for which the file names the policy after SFT."""
    name: str = "rl"
    """Name of the RL set, which is written to NAME_questions.jsonl; give each policy a name of its own."""
    policy: str = ""
    """Checkpoint after SFT that makes the selection, in place of the policy that the file names."""


def run(config: CurateConfig) -> None:
    from hypereyes_jax import miniature
    from hypereyes_jax.data.curation.pools import open_pools
    from hypereyes_jax.data.curation.types import read_curation
    from hypereyes_jax.data.filters import FilterConfig
    from hypereyes_jax.env.config import EpisodeConfig
    from hypereyes_jax.env.judging.service import check_judge
    from hypereyes_jax.env.search.services import check_search
    from hypereyes_jax.eval.funnel_page import write_funnel_page
    from hypereyes_jax.files import write_json

    if not config.name.isidentifier() or config.name in ("sft", "authors"):
        raise UserError(f"--name {config.name}: use letters, digits and _, and neither sft nor authors")
    plan = read_curation(config.file)
    check_judge(plan.judge)  # before pictures of all pools are opened
    check_search(plan.search)
    episode = miniature.EPISODE if plan.miniature else EpisodeConfig()
    filters = plan.filters or (miniature.FILTERS if plan.miniature else FilterConfig())
    sft, rl = (plan.collect_config(stage, episode, filters) for stage in ("sft", "rl"))
    with open_pools(plan.pools) as questions:
        funnel, hard = _sft_set(config, plan, questions, sft)
        if config.stage == "rl":
            _rl_set(config, plan, questions, funnel, hard, rl)
        write_json(config.out / "funnel.json", funnel.to_json() | {"pools": questions.sizes()})
        write_funnel_page(config.out / "funnel.html", funnel, questions)
        if plan.layout == "authors":
            _write_authors(config, questions, sft)
    _tell(config, funnel)


def _sft_set(
    config: CurateConfig, plan: CurationConfig, questions: PooledQuestions, rules: CollectConfig
) -> tuple[Funnel, list[int]]:
    """The funnel to the SFT set, which is made if its stage was asked for, and the places of questions fit for RL."""
    from hypereyes_jax.data.collection.attempts import ATTEMPTS
    from hypereyes_jax.data.collection.outcome import write_outcome
    from hypereyes_jax.data.curation.funnel import sft_funnel

    folder = config.out / "sft"
    if config.stage == "rl" and not (folder / ATTEMPTS).exists():
        raise UserError(
            f"{config.out} holds no SFT set yet. Run `hypereyes curate {config.file}` without --stage first."
        )
    with _attempts(folder, plan, "sampler", plan.sampler, rules) as log:
        if config.stage == "sft":
            asyncio.run(_collect(plan, plan.sampler, questions, log, rules))
            write_outcome(folder, questions, log, rules)
        return sft_funnel(questions, log, rules)


def _rl_set(
    config: CurateConfig,
    plan: CurationConfig,
    questions: PooledQuestions,
    funnel: Funnel,
    hard: list[int],
    rules: CollectConfig,
) -> None:
    """Has the policy try the questions at these places, writes those it can learn from, and adds the stage."""
    from hypereyes_jax.data.curation.funnel import rl_funnel
    from hypereyes_jax.data.curation.types import ModelConfig
    from hypereyes_jax.data.sources import subset

    policy = ModelConfig(checkpoint=config.policy) if config.policy else plan.policy
    if policy is None:
        raise UserError(f"{config.file} names no policy. Add the model after SFT, as policy: {{checkpoint: DIR}}.")
    with _attempts(config.out / config.name, plan, "policy", policy, rules) as log:
        asyncio.run(_collect(plan, policy, subset(questions, hard), log, rules))
        funnel.rl, selection = rl_funnel(questions, hard, log, rules)
    _write_rl_set(config.out / f"{config.name}_questions.jsonl", questions, selection)


def _attempts(
    folder: Path, plan: CurationConfig, role: str, model: ModelConfig, rules: CollectConfig
) -> contextlib.AbstractContextManager[AttemptLog]:
    """The attempts of a stage, with all that decides what they tell."""
    models = {role: model, "filter_model": plan.filter_model}
    about = {"search": plan.search, "judge": plan.judge, "miniature": plan.miniature}
    checkpoints = {
        f"{name}.checkpoint": Path(each.checkpoint) if each is not None and each.checkpoint else None
        for name, each in models.items()
    }
    settings = to_jsonable(rules) | models | about
    objects = own_objects(rules.episode, plan.search, plan.judge)
    return open_attempts(folder, "curate", settings, _MAY_DIFFER, checkpoints, objects)


def _write_rl_set(path: Path, questions: PooledQuestions, references: dict[int, tuple[int, int]]) -> None:
    from hypereyes_jax.data.files import write_questions
    from hypereyes_jax.data.sources.question_rows import REFERENCE

    def rows() -> Iterator[Question]:
        for place, reference in references.items():
            question = questions[place]
            yield replace(question, meta={**question.meta, REFERENCE: list(reference)})

    write_questions(path, rows())


def _write_authors(config: CurateConfig, questions: PooledQuestions, sft: CollectConfig) -> None:
    """The same sets in the authors' layouts, in `authors/`."""
    from hypereyes_jax.data.authors_formats import write_rl_parquet, write_sft_files
    from hypereyes_jax.data.sources import open_examples, open_questions
    from hypereyes_jax.env.prompts import system_prompt
    from hypereyes_jax.files import writing

    folder, rules = config.out / "authors", sft.episode
    system = rules.system or system_prompt(rules.prompt_style, rules.box_units, rules.max_rounds)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    demonstrations, question_file = (
        config.out / "sft" / "demonstrations.jsonl",
        config.out / f"{config.name}_questions.jsonl",
    )
    if demonstrations.exists() and demonstrations.stat().st_size:
        with open_examples(demonstrations, bad_rows="skip", allow_empty=True) as examples:
            write_sft_files(folder, examples)
    if question_file.exists() and question_file.stat().st_size:
        with open_questions(question_file) as selection:
            write_rl_parquet(folder / f"{config.name}.parquet", selection, selection.references, system)


async def _collect(
    plan: CurationConfig, model: ModelConfig, questions: Sequence[Question], log: AttemptLog, rules: CollectConfig
) -> None:
    from hypereyes_jax.data.collection.pipeline import Collection
    from hypereyes_jax.env.judging.service import judging
    from hypereyes_jax.env.search.services import SearchKeys, connected

    filter_model = plan.filter_model
    async with (
        connected(plan.search, SearchKeys.of(os.environ)) as search,
        judging(plan.judge) as judge,
        _player(model, plan) as player,
        _player(filter_model, plan) if filter_model is not None else contextlib.nullcontext() as filter_player,
    ):
        dollars = dollars_of(search, model.prompt_price, model.completion_price)
        of_filter = None
        if filter_model is not None:
            of_filter = price_of(filter_model.prompt_price, filter_model.completion_price)
        collection = Collection(
            log, player, judge, search.backend, rules,
            filter_player=filter_player, dollars=dollars, filter_dollars=of_filter,
        )  # fmt: skip
        capped = await make_attempts(collection, questions)
    print_spending(collection, capped, f"most_dollars: {plan.most_dollars:g}")


@contextlib.asynccontextmanager
async def _player(model: ModelConfig, plan: CurationConfig) -> AsyncIterator[Player]:
    if model.checkpoint:
        from hypereyes_jax.configs.rollout import SamplingConfig
        from hypereyes_jax.eval.checkpoint_player import CheckpointPlayer
        from hypereyes_jax.eval.policy import load_policy
        from hypereyes_jax.train.sizes import MINIATURE_RL, known_recipe, sizes_of

        sizes = MINIATURE_RL if plan.miniature else sizes_of(known_recipe("hypereyes_30b_rl", "rl"))
        policy = load_policy(model.checkpoint, sizes.engine(), dtype=sizes.learner.compute_dtype)
        sampling = SamplingConfig(model.temperature, max_new_tokens=min(model.max_tokens, sizes.turn_tokens))
        async with policy.engines.running() as generator:
            yield CheckpointPlayer(model.checkpoint, generator, policy.chat, sampling)
        return
    from hypereyes_jax.data.collection.endpoint import EndpointPlayer
    from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint

    key = os.environ.get(model.key_env, "")
    client = ChatClient(ChatEndpoint(model.url, model.name, key, in_flight=plan.in_flight))
    try:
        yield EndpointPlayer(client, temperature=model.temperature, max_tokens=model.max_tokens)
    finally:
        await client.aclose()


def _tell(config: CurateConfig, funnel: Funnel) -> None:
    stages = (*funnel.sft, *([funnel.rl] if funnel.rl else []))
    print_stages((stage.name, stage.entered, stage.left, stage.dropped) for stage in stages)
    print(f"wrote {config.out / 'funnel.html'}")
