"""Evaluate a checkpoint: accuracy with its interval, rounds, searches, tokens, CAS.

    hypereyes eval CHECKPOINT                             # on the miniature world
    hypereyes eval CHECKPOINT --questions FILE            # on any source of questions, a question at a time
    hypereyes eval CHECKPOINT --benchmark fvqa --data DIR # on a published benchmark
    hypereyes eval CHECKPOINT --recipe hypereyes_8b_rl --mesh gpu_8 --questions FILE   # of another size
    hypereyes eval http://127.0.0.1:8000/v1 --model NAME --questions FILE              # served elsewhere

The same command again continues where it was stopped.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from hypereyes_jax import miniature
from hypereyes_jax.cli.inputs import refuse_missing_inputs
from hypereyes_jax.cli.source_settings import SourceSettings, pairs
from hypereyes_jax.configs.mesh_text import refuse_unknown_mesh
from hypereyes_jax.env.config import EpisodeConfig, Manner
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig, SearchKeys
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.sizes import MINIATURE_RL, TrainingSizes, known_recipe, sizes_of

if TYPE_CHECKING:
    from hypereyes_jax.configs.rollout import SamplingConfig
    from hypereyes_jax.env.search.distractors import DistractedBackend
    from hypereyes_jax.env.search.recorded import RecordedBackend
    from hypereyes_jax.env.types import Question
    from hypereyes_jax.env.world import World
    from hypereyes_jax.eval.benchmark_play import OpenBenchmark
    from hypereyes_jax.eval.own_metrics import OwnMetrics
    from hypereyes_jax.eval.policy import Policy
    from hypereyes_jax.eval.served import ServedPolicy

PAPER_RECIPE = "hypereyes_30b_rl"
# Where it runs and how much at a time changes no answer that is there.
_MAY_DIFFER = frozenset({"out", "mesh", "replica_devices", "slots", "in_flight"})
_SEARCH = replace(miniature.SEARCH, latency=0.0)  # nobody trains meanwhile, so nothing would hide the wait
Split = Literal["heldout", "seen", "heldout_serial"]


@dataclass(frozen=True)
class EvalConfig:
    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Model with its tokenizer: a directory in Hugging Face layout, a hub id (org/name[@revision]) or a URL. With
    --model, the base of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; its key is OPENAI_API_KEY."""
    model: str = ""
    """Name of the model at an endpoint; none means a checkpoint that is run here."""
    recipe: str = ""
    """Recipe that sets the sizes of engine, images and turns: miniature, or one of RL like hypereyes_8b_rl. None means
    the miniature's sizes if an offline world is searched, and the paper's otherwise."""
    mesh: str = ""
    """How the weights are distributed over this process's devices: a preset, axes like fsdp=8, or auto. None means one
    device."""
    replica_devices: int = 0
    """Number of devices of the mesh that share one engine; 0 takes as many as the KV heads divide among."""
    dtype: str = ""
    """Type of weights and caches: float32 or bfloat16; none takes the recipe's."""
    out: Path = Path("runs/eval")
    """The run directory. The same command again continues; results of other checkpoints belong in other directories."""
    name: str = "model"
    """Name of the stage under which the results are filed."""
    splits: tuple[Split, ...] = ("heldout", "seen", "heldout_serial")
    """Questions about held-out countries, about seen ones, and held-out ones with one search a turn."""
    questions: int | str = 200
    """Number of questions of each split; or a source of other questions to ask: a file, folder, glob, hub id, URL or
    module:object."""
    crowding: float = miniature.CROWDING
    """Exponent of the number of flags in a mosaic: one of n flags, 2 to 8, is drawn with weight n**crowding, which
    makes 3.2 flags on average by default, as in training; 0 makes 4.6."""
    temperature: float = 0.8
    """Sampling temperature; the default is that of training, and 0 is greedy."""
    top_p: float = 0.7
    """Top-p (nucleus) of sampling; the default is the paper's, and training uses 0.95."""
    max_new_tokens: int | None = None
    """Number of tokens that one turn may have; none takes the recipe's."""
    context: int | None = None
    """Number of tokens that one episode may have; none takes the recipe's."""
    slots: int | None = None
    """Number of episodes that an engine generates for at a time; none takes 32 in the miniature, and the recipe's
    number otherwise."""
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    """Rules of an episode: those that differ from the defaults take the place of the recipe's. The paper evaluates with
    --episode.max-turns 19 --episode.max-rounds 18."""
    in_flight: int = 64
    """Number of requests that are under way at an endpoint at a time."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    seed: int = 1000
    """Seed of the questions that are drawn."""
    metrics: tuple[str, ...] = ()
    """Further metrics of the episodes: module:object or file.py:object, functions of an episode's result and the
    judge's verdict."""
    sampling_seed: int | None = None
    """Seed of the sampling; none takes the questions' seed. A served model draws its own."""
    samples: int = 1
    """Number of answers to each question of a source or a benchmark."""
    benchmark: tuple[str, ...] = ()
    """Benchmarks instead of the splits: mmsearch, fvqa, livevqa, browsecomp-vl, mmsearch-plus and imeb from their
    published files, imeb-mini, which is made here, or a `BenchmarkSpec` of your own (module:object or
    file.py:object)."""
    data: Path | None = None
    """Folder of a benchmark's published files, one of these files, or a folder that has a folder named after each
    benchmark."""
    subset: Path | None = None
    """A file with the ids of the questions to ask, one a line; without one all are asked."""
    choices: bool = False
    """Show a benchmark's options in the question, where it has some."""
    rows: Annotated[SourceSettings, tyro.conf.arg(name="")] = field(default_factory=SourceSettings)
    """How questions are read; the benchmark imeb uses the columns only."""
    search: Annotated[SearchConfig, tyro.conf.EnumChoicesFromValues] = _SEARCH
    """What is searched, and how; keys come from the environment, as for `ask`. With any service but the offline ones
    (world and nature), the paper's episode rules and image sizes hold."""
    manner: Manner = "parallel"
    """How benchmarks are searched: freely (parallel), one search a turn (serial), all pictures and then all facts by
    instruction (workflow), not at all (direct), or with regions cut out before the search by a tool (llm-crop) or by
    code (code-crop)."""
    budget: int | None = None
    """Number of search rounds that an episode of a benchmark may take; none keeps the rules' number."""
    budgets: tuple[int, ...] = ()
    """Several budgets to force one after another, beside the policy's own stop; accuracy against rounds is drawn in
    budgets-NAME-BENCHMARK.svg."""
    distractors: int = 0
    """Number of results of other searches that are mixed into the results of each search of a benchmark, in an order
    drawn by the seed."""


def run(config: EvalConfig) -> None:
    sizes = _sizes(config)
    _refuse_settings(config)

    from hypereyes_jax.configs.objects import load_object
    from hypereyes_jax.env.web.chat_api import ChatEndpoint
    from hypereyes_jax.eval.benchmark_run import several_samples
    from hypereyes_jax.eval.own_metrics import in_words
    from hypereyes_jax.eval.policy import load_policy
    from hypereyes_jax.eval.run_files import METRICS, read_stages
    from hypereyes_jax.eval.served import ServedPolicy
    from hypereyes_jax.eval.tables import costs_table, evaluated, results_table
    from hypereyes_jax.runs.own_objects import keep_own_objects
    from hypereyes_jax.runs.terminal import Terminal
    from hypereyes_jax.train.method import RlMethod, load_method, own_records

    opened = [several_samples(each, config.samples) for each in _open_benchmarks(config)]
    directory = RunDirectory.open(
        config.out, "eval", config, may_differ=_MAY_DIFFER | ({"checkpoint"} if config.model else set())
    )
    # What is wrong with a user's own tools or prompt is told before a model is loaded.
    own = load_method(RlMethod(), sizes.learner, sizes.episode, config.metrics).metrics
    opened = [replace(benchmark, metrics=own) for benchmark in opened]
    sources = [config.questions] if isinstance(config.questions, str) else []
    own_parts = RlMethod(), sizes.learner, sizes.episode, config.search, config.judge, config.metrics
    own_benchmarks = [("benchmark", load_object(name, "benchmark")) for name in config.benchmark if ":" in name]
    records = own_records(*own_parts, sources) + [{"role": role, **each.record()} for role, each in own_benchmarks]
    keep_own_objects(directory.path, records)
    sampling = replace(sizes.sampling(), temperature=config.temperature, top_p=config.top_p)
    policy: Policy | ServedPolicy
    if config.model:
        key = os.environ.get("OPENAI_API_KEY", "")
        policy = ServedPolicy(ChatEndpoint(config.checkpoint, config.model, key, in_flight=config.in_flight))
    else:
        policy = load_policy(
            config.checkpoint,
            sizes.engine(),
            dtype=sizes.learner.compute_dtype,
            mesh=config.mesh,
            replica_devices=config.replica_devices,
        )
    if opened:
        for each in _at_each_budget(config):
            asyncio.run(_benchmarks(each, opened, directory, policy, sampling, sizes))
        if config.budgets:
            _draw_budgets(config, directory)
        return
    assert not isinstance(policy, ServedPolicy)  # `_refuse_settings`
    with Stages() as stages:
        for split in config.splits:
            if not evaluated(directory, config.name, split):
                asyncio.run(_evaluate(config, directory, policy, split, sampling, stages, own))
    stages_done = read_stages(directory.file(METRICS))
    lines = [
        in_words(f"{stage}, {split}", row) for stage, splits in stages_done.items() for split, row in splits.items()
    ]
    Terminal().print(results_table(stages_done), costs_table(stages_done), *filter(None, lines))


def _sizes(config: EvalConfig) -> TrainingSizes:
    """The sizes of the engine and the rules of episodes. Raises UserError for a recipe or a number there can't be."""
    recipe = config.recipe or ("miniature" if config.search.offline else PAPER_RECIPE)
    small = recipe == "miniature"
    sizes = replace(MINIATURE_RL, slots=32) if small else sizes_of(known_recipe(recipe, "rl"))
    given: dict[str, Any] = {"slots": config.slots, "context": config.context, "turn_tokens": config.max_new_tokens}
    sizes = replace(sizes, **{name: value for name, value in given.items() if value is not None})
    if config.dtype and config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype {config.dtype}: it must be float32 or bfloat16")
    learner = replace(sizes.learner, compute_dtype=config.dtype or sizes.learner.compute_dtype)
    prompt = min(sizes.prompt_tokens, sizes.context)
    return replace(sizes, learner=learner, episode=config.episode.over(sizes.episode), prompt_tokens=prompt)


def check(config: EvalConfig) -> None:
    """Raises UserError for what an evaluation would refuse before it begins."""
    sizes = _sizes(config)
    _refuse_settings(config)

    from hypereyes_jax.data.benchmarks import known_benchmark
    from hypereyes_jax.train.method import RlMethod, load_method

    load_method(RlMethod(), sizes.learner, sizes.episode, config.metrics)
    for name in config.benchmark:
        known_benchmark("imeb" if name == "imeb-mini" else name)


def _refuse_settings(config: EvalConfig) -> None:
    """Raises UserError for settings that this evaluation would ignore, and for inputs that are not there."""
    from hypereyes_jax.env.search.services import check_search

    check_search(config.search, _SEARCH)
    refuse_unknown_mesh(config.mesh)
    has_questions = bool(config.benchmark) or isinstance(config.questions, str)
    doubled = len(set(config.budgets)) < len(config.budgets)
    if config.budgets and (not has_questions or config.budget is not None or doubled):
        raise UserError(
            "--budgets needs a source of questions or a benchmark (--questions, --benchmark), takes each number once, "
            "and takes the place of --budget"
        )
    if not has_questions and config.samples != 1:
        raise UserError("--samples needs a source of questions or a benchmark: give --questions or --benchmark")
    if config.model:
        if not config.checkpoint.startswith(("http://", "https://")):
            raise UserError(f"--model names a model at an endpoint, and {config.checkpoint} is not the URL of one")
        if not has_questions:
            raise UserError("a served model needs a source of questions or a benchmark: --questions or --benchmark")
        for name in ("mesh", "replica_devices", "dtype", "slots", "context", "sampling_seed"):
            if getattr(config, name) != getattr(EvalConfig, name):
                option = name.replace("_", "-")
                raise UserError(f"--{option} is for a checkpoint that runs here, not for a served model")
    refuse_missing_inputs(config)


def _open_benchmarks(config: EvalConfig) -> list[OpenBenchmark]:
    from hypereyes_jax.data.benchmarks import ReadOptions
    from hypereyes_jax.eval.benchmark_play import prepare_benchmark, prepare_questions

    real = [name for name in config.benchmark if name not in ("imeb", "imeb-mini") and ":" not in name]
    if real and config.search.service == "world":
        raise UserError(
            f"{', '.join(real)} can't be answered from the miniature's world. Give --search.service serpapi or "
            "retriever."
        )
    options = ReadOptions(config.choices, pairs("columns", config.rows.columns))
    if isinstance(config.questions, str):
        if config.benchmark:
            raise UserError("--questions names a source, and --benchmark other questions: give one of them")
        return [prepare_questions(config.questions, config.rows.options())]
    return [prepare_benchmark(name, config.data, config.subset, options) for name in config.benchmark]


def _at_each_budget(config: EvalConfig) -> list[EvalConfig]:
    """The evaluations that were asked for: under each forced budget, and last as the policy stops by itself."""
    from hypereyes_jax.study.budget_curve import budget_name

    forced = [
        replace(config, name=budget_name(config.name, budget), budget=budget, budgets=()) for budget in config.budgets
    ]
    return [*forced, config]


def _draw_budgets(config: EvalConfig, directory: RunDirectory) -> None:
    """Draws accuracy against rounds for each benchmark, and tells where."""
    from hypereyes_jax.eval.benchmark_play import read_summaries
    from hypereyes_jax.files import write_atomic
    from hypereyes_jax.study.budget_curve import budget_curves
    from hypereyes_jax.study.render import to_svg

    for benchmark, chart in budget_curves(read_summaries(directory), config.name, config.budgets).items():
        path = directory.file(f"budgets-{config.name}-{benchmark}.svg")
        write_atomic(path, to_svg(chart))
        print(f"accuracy by budget: {path}")


async def _benchmarks(
    config: EvalConfig,
    opened: Sequence[OpenBenchmark],
    directory: RunDirectory,
    policy: Policy | ServedPolicy,
    sampling: SamplingConfig,
    sizes: TrainingSizes,
) -> None:
    from hypereyes_jax.env.judging.service import judging
    from hypereyes_jax.env.search.services import connected
    from hypereyes_jax.eval import benchmark_play
    from hypereyes_jax.eval.benchmark_table import measures_table, own_row, paper_rows, terminal_table
    from hypereyes_jax.eval.own_metrics import in_words
    from hypereyes_jax.eval.policy import EvaluationRun
    from hypereyes_jax.processing.lengths import visual_tokens
    from hypereyes_jax.runs.terminal import Terminal

    summaries = []
    with Stages() as stages:
        for benchmark in opened:
            rules = _rules(config, sizes)
            # Each benchmark has a rule of its own for judges; one that was chosen holds for all.
            rule = benchmark.spec.rule if config.judge.rule == JudgeConfig().rule else config.judge.rule
            async with (
                judging(replace(config.judge, rule=rule)) as judge,
                connected(config.search, SearchKeys.of(os.environ)) as (backend, _),
            ):
                summaries.append(
                    await benchmark_play.play_benchmark(
                        EvaluationRun(directory, stages, config.name),
                        policy,
                        benchmark,
                        backend=_distracted(config, backend),
                        judge=judge,
                        episode=rules,
                        sampling=sampling,
                        visual_tokens=partial(visual_tokens, min_pixels=sizes.min_pixels, max_pixels=sizes.max_pixels),
                        seed=config.seed if config.sampling_seed is None else config.sampling_seed,
                    )
                )
    files = benchmark_play.write_tables(directory)
    levels = tuple(f"{benchmark.name}-" for benchmark in opened if benchmark.spec.levels)
    filed = benchmark_play.read_summaries(directory)[config.name]
    summaries += [summary for summary in filed if summary.benchmark.startswith(levels)] if levels else []
    rows = [own_row(config.name, summaries), *paper_rows()]
    lines = [in_words(summary.benchmark, summary.own) for summary in summaries]
    Terminal().print(measures_table(summaries), *filter(None, lines), terminal_table(rows))
    print("tables: " + ", ".join(str(path) for path in files))


def _rules(config: EvalConfig, sizes: TrainingSizes) -> EpisodeConfig:
    """The rules of a benchmark's episodes: in the manner and with the rounds that were asked for, and with room for
    distractors among the results shown."""
    from hypereyes_jax.eval.benchmark_play import in_manner

    manner, rules = config.manner, sizes.episode
    if rules == miniature.EPISODE and (manner == "llm-crop" or manner == "code-crop"):
        rules = miniature.episode(manner)
    rules = in_manner(rules, manner)
    if config.budget is not None:
        if config.budget < 0 or manner in ("direct", "workflow"):
            raise UserError("--budget must be at least 0 rounds, of a manner whose rounds are not fixed.")
        rules = replace(rules, max_rounds=config.budget, max_turns=config.budget + 1)
    if config.distractors < 0:
        raise UserError("--distractors must be at least 0.")
    more = config.distractors
    return replace(rules, text_k=rules.text_k + more, image_k=rules.image_k + more)


def _distracted(config: EvalConfig, backend: RecordedBackend) -> RecordedBackend | DistractedBackend:
    """The backend that episodes search: with distractors if some were asked for."""
    from hypereyes_jax.env.search.distractors import DistractedBackend, world_distractors
    from hypereyes_jax.env.world import World

    if not config.distractors:
        return backend
    if config.search.service != "world":
        raise UserError("--distractors are pages of the miniature's world: leave out --search.service.")
    return DistractedBackend(backend, world_distractors(World.load()), config.distractors, config.seed)


async def _evaluate(
    config: EvalConfig,
    directory: RunDirectory,
    policy: Policy,
    split: Split,
    sampling: SamplingConfig,
    stages: Stages,
    own: OwnMetrics,
) -> None:
    from hypereyes_jax.env.judging.service import judging
    from hypereyes_jax.env.world import World
    from hypereyes_jax.eval.policy import EvaluationRun
    from hypereyes_jax.eval.split import evaluate_split

    async with judging(config.judge) as judge:
        await evaluate_split(
            EvaluationRun(directory, stages, config.name),
            policy,
            split,
            world_questions(World.load(), split, int(config.questions), config.seed, config.crowding),
            sampling=sampling,
            search=config.search,
            seed=config.seed if config.sampling_seed is None else config.sampling_seed,
            judge=judge,
            metrics=own,
        )


def world_questions(
    world: World, split: Split, count: int, seed: int, crowding: float = miniature.CROWDING
) -> list[Question]:
    """Evaluation questions: about held-out countries (mixed with seen ones), or in the seen part of the world.

    They are drawn as `hypereyes synth` and the quickstart draw theirs, unless `crowding` says otherwise.
    """
    from hypereyes_jax.data.questions import SynthesisConfig, synthesize

    seen, held_out = world.split()
    rules = SynthesisConfig(crowding=crowding)
    if split == "seen":
        return [synth.question for synth in synthesize(world.restrict(seen), count, seed, rules, prefix="seen")]
    return [synth.question for synth in synthesize(world, count, seed, rules, focus=held_out, prefix="heldout")]
