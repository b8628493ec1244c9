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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from hypereyes_jax import miniature
from hypereyes_jax.cli.collection import SERVICES_MAY_DIFFER
from hypereyes_jax.cli.inputs import refuse_missing_inputs
from hypereyes_jax.cli.source_settings import (
    SourceSettings,
    pairs,
    refuse_settings_of_demonstrations,
    refuse_settings_of_sources,
)
from hypereyes_jax.configs.mesh_text import refuse_unknown_mesh
from hypereyes_jax.env.config import EpisodeConfig, Manner
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.evaluation import benchmark_rules, evaluation_sizes
from hypereyes_jax.train.sizes import TrainingSizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypereyes_jax.eval.benchmark_run import BenchmarkSummary, OpenBenchmark
    from hypereyes_jax.eval.conditions import EvaluationConditions
    from hypereyes_jax.eval.own_metrics import OwnMetrics
    from hypereyes_jax.eval.policy import Policy
    from hypereyes_jax.eval.served import ServedPolicy

PAPER_RECIPE = "hypereyes_30b_rl"
# Where it runs and how much at a time changes no answer that is there.
_MAY_DIFFER = frozenset({"out", "mesh", "replica_devices", "slots", "in_flight"}) | SERVICES_MAY_DIFFER
_WRITES = ("trajectories-*.jsonl", "timeline-*.json", "benchmark-*.jsonl", "benchmarks.*", "budgets-*.svg")
_SEARCH = replace(miniature.SEARCH, latency=0.0)  # nobody trains meanwhile, so nothing would hide the wait
_ANY_COLUMNS = ("imeb", "imeb-mini")  # benchmarks whose columns may be given
_WITH_OPTIONS = ("livevqa", "imeb")  # benchmarks that may be asked with their options
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
    """How questions are read. Columns are for sources, the benchmark imeb and benchmarks of your own."""
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
    _refuse_settings(config, sizes)

    from hypereyes_jax.eval.benchmark_run import several_samples
    from hypereyes_jax.runs.own_objects import keep_own_objects
    from hypereyes_jax.train.method import RlMethod, load_method, own_records

    benchmarks = [several_samples(each, config.samples) for each in _open_benchmarks(config)]
    may_differ = _MAY_DIFFER | ({"checkpoint"} if config.model else set())
    directory = RunDirectory.open(
        config.out, "eval", config, may_differ=may_differ, inputs=_inputs(config), writes=_WRITES
    )
    # What is wrong with a user's own tools or prompt is told before a model is loaded.
    own = load_method(RlMethod(), sizes.learner, sizes.episode, config.metrics).metrics
    sources = [config.questions] if isinstance(config.questions, str) else []
    own_parts = RlMethod(), sizes.learner, sizes.episode, config.search, config.judge, config.metrics
    keep_own_objects(directory.path, own_records(*own_parts, sources, config.benchmark))
    policy = _policy(config, sizes)
    if benchmarks:
        _ask_benchmarks(config, directory, policy, [replace(benchmark, metrics=own) for benchmark in benchmarks], sizes)
    else:
        _ask_splits(config, directory, policy, sizes, own)


def _inputs(config: EvalConfig) -> dict[str, Path | None]:
    """What the results depend on the content of, by the names of the settings."""
    return {
        "checkpoint": None if config.model else Path(config.checkpoint),
        "questions": Path(config.questions) if isinstance(config.questions, str) else None,
        "data": config.data,
        "subset": config.subset,
    }


def check(config: EvalConfig) -> None:
    """Raises UserError for what an evaluation would refuse before it begins."""
    sizes = _sizes(config)
    _refuse_settings(config, sizes)

    from hypereyes_jax.data.benchmarks import known_benchmark
    from hypereyes_jax.env.judging.own import check_own_judge
    from hypereyes_jax.train.method import RlMethod, load_method

    if config.judge.object:
        check_own_judge(config.judge.object)
    load_method(RlMethod(), sizes.learner, sizes.episode, config.metrics)
    for name in config.benchmark:
        known_benchmark("imeb" if name == "imeb-mini" else name)


def _sizes(config: EvalConfig) -> TrainingSizes:
    """The sizes of the engine and the rules of episodes. Raises UserError for a recipe or a number there can't be."""
    return evaluation_sizes(
        config.recipe or ("miniature" if config.search.offline else PAPER_RECIPE),
        config.episode,
        slots=config.slots,
        context=config.context,
        turn_tokens=config.max_new_tokens,
        dtype=config.dtype,
    )


def _refuse_settings(config: EvalConfig, sizes: TrainingSizes) -> None:
    """Raises UserError for settings that this evaluation would ignore, and for inputs that are not there."""
    from hypereyes_jax.env.judging.service import check_judge
    from hypereyes_jax.env.search.services import check_search

    check_search(config.search, _SEARCH)
    check_judge(config.judge)
    refuse_unknown_mesh(config.mesh)
    if not config.name or "/" in config.name or "\0" in config.name:
        raise UserError(f"--name {config.name!r} is part of the names of files: give one without /, such as 8b-rl")
    of_source = isinstance(config.questions, str)
    has_questions = bool(config.benchmark) or of_source
    if config.benchmark and of_source:
        raise UserError("give either --questions or --benchmark, not both")
    doubled = len(set(config.budgets)) < len(config.budgets)
    if config.budgets and (not has_questions or config.budget is not None or doubled):
        raise UserError(
            "--budgets needs --questions or --benchmark, must not repeat a number, and can't be combined with --budget"
        )
    if not has_questions:
        for name in ("samples", "manner", "budget", "distractors"):
            if getattr(config, name) != getattr(EvalConfig, name):
                raise UserError(f"--{name} needs a source of questions or a benchmark: give --questions or --benchmark")
    _refuse_reading(config, has_questions)
    for budget in (*config.budgets, config.budget):
        benchmark_rules(sizes.episode, config.manner, budget, config.distractors)
    if config.distractors and config.search.service != "world":
        raise UserError("--distractors are pages of the miniature's world: leave out --search.service.")
    real = [name for name in config.benchmark if name not in ("imeb", "imeb-mini") and ":" not in name]
    if real and config.search.service == "world":
        raise UserError(
            f"{', '.join(real)} can't be answered from the miniature's world. Give --search.service serpapi or "
            "retriever."
        )
    if config.model:
        if not config.checkpoint.startswith(("http://", "https://")):
            raise UserError(f"--model needs the URL of a server as the checkpoint, and {config.checkpoint} is not one")
        if not has_questions:
            raise UserError("a served model needs a source of questions or a benchmark: --questions or --benchmark")
        for name in ("mesh", "replica_devices", "dtype", "slots", "context", "sampling_seed"):
            if getattr(config, name) != getattr(EvalConfig, name):
                option = name.replace("_", "-")
                raise UserError(f"--{option} has no effect on a served model: leave it out")
    refuse_missing_inputs(config)


def _refuse_reading(config: EvalConfig, has_questions: bool) -> None:
    """Raises UserError for a setting of what is read that nothing would heed."""
    refuse_settings_of_demonstrations(config.rows, "eval")
    if not has_questions:
        refuse_settings_of_sources(config.rows, "these questions are made here: give --questions or --benchmark")
    for name in ("data", "subset", "choices"):
        if not config.benchmark and getattr(config, name) != getattr(EvalConfig, name):
            raise UserError(f"--{name} is for benchmarks: give --benchmark, or leave it out.")
    if config.choices and not any(name in _WITH_OPTIONS or ":" in name for name in config.benchmark):
        raise UserError(f"--choices would be ignored: {', '.join(config.benchmark)} has no options. Leave it out.")
    if (
        config.rows.columns
        and config.benchmark
        and not any(name in _ANY_COLUMNS or ":" in name for name in config.benchmark)
    ):
        raise UserError(
            f"--columns would be ignored: {', '.join(config.benchmark)} is read with its published columns. Give a "
            "file with other columns as --questions."
        )


def _open_benchmarks(config: EvalConfig) -> list[OpenBenchmark]:
    from hypereyes_jax.data.benchmarks import ReadOptions
    from hypereyes_jax.eval.benchmark_play import prepare_benchmark, prepare_questions

    if isinstance(config.questions, str):
        return [prepare_questions(config.questions, config.rows.options())]
    options = ReadOptions(config.choices, pairs("columns", config.rows.columns))
    source_options = config.rows.options()
    return [prepare_benchmark(name, config.data, config.subset, options, source_options) for name in config.benchmark]


def _policy(config: EvalConfig, sizes: TrainingSizes) -> Policy | ServedPolicy:
    from hypereyes_jax.env.chat.client import ChatEndpoint
    from hypereyes_jax.eval.policy import load_policy
    from hypereyes_jax.eval.served import ServedPolicy

    if config.model:
        key = os.environ.get("OPENAI_API_KEY", "")
        return ServedPolicy(ChatEndpoint(config.checkpoint, config.model, key, in_flight=config.in_flight))
    return load_policy(
        config.checkpoint,
        sizes.engine(),
        dtype=sizes.learner.compute_dtype,
        mesh=config.mesh,
        replica_devices=config.replica_devices,
    )


def _conditions(config: EvalConfig, sizes: TrainingSizes) -> EvaluationConditions:
    from hypereyes_jax.eval.conditions import EvaluationConditions

    return EvaluationConditions(
        config.search,
        config.judge,
        sizes.episode,
        replace(sizes.sampling(), temperature=config.temperature, top_p=config.top_p),
        (sizes.min_pixels, sizes.max_pixels),
        config.seed if config.sampling_seed is None else config.sampling_seed,
        config.distractors,
        config.seed,
    )


def _ask_benchmarks(
    config: EvalConfig,
    directory: RunDirectory,
    policy: Policy | ServedPolicy,
    opened: Sequence[OpenBenchmark],
    sizes: TrainingSizes,
) -> None:
    """Asks the benchmarks under each forced budget, and last as the policy stops by itself."""
    from hypereyes_jax.eval.benchmark_play import play_benchmarks
    from hypereyes_jax.eval.policy import EvaluationRun
    from hypereyes_jax.study.budget_curve import budget_name, write_budget_curves

    conditions = _conditions(config, sizes)
    budgets = [(budget_name(config.name, budget), budget) for budget in config.budgets]
    for name, budget in [*budgets, (config.name, config.budget)]:
        rules = benchmark_rules(sizes.episode, config.manner, budget, config.distractors)
        with Stages() as stages:
            evaluation = EvaluationRun(directory, stages, name)
            summaries = asyncio.run(play_benchmarks(evaluation, policy, opened, replace(conditions, episode=rules)))
        _print_benchmarks(directory, name, summaries)
    if config.budgets:
        for path in write_budget_curves(directory, config.name, config.budgets):
            print(f"accuracy by budget: {path}")


def _print_benchmarks(directory: RunDirectory, name: str, summaries: Sequence[BenchmarkSummary]) -> None:
    from hypereyes_jax.eval.benchmark_play import write_tables
    from hypereyes_jax.eval.benchmark_table import measures_table, own_row, paper_rows, terminal_table
    from hypereyes_jax.eval.own_metrics import in_words
    from hypereyes_jax.runs.terminal import Terminal

    rows = [own_row(name, summaries), *paper_rows()]
    lines = [in_words(summary.benchmark, summary.own) for summary in summaries]
    Terminal().print(measures_table(summaries), *filter(None, lines), terminal_table(rows))
    print("tables: " + ", ".join(str(path) for path in write_tables(directory)))


def _ask_splits(
    config: EvalConfig,
    directory: RunDirectory,
    policy: Policy | ServedPolicy,
    sizes: TrainingSizes,
    own: OwnMetrics,
) -> None:
    from hypereyes_jax.env.world import World
    from hypereyes_jax.eval.own_metrics import in_words
    from hypereyes_jax.eval.policy import EvaluationRun, Policy
    from hypereyes_jax.eval.run_files import METRICS, read_stages
    from hypereyes_jax.eval.split import evaluate_split, world_questions
    from hypereyes_jax.eval.tables import costs_table, evaluated, results_table
    from hypereyes_jax.runs.terminal import Terminal

    assert isinstance(policy, Policy)  # `_refuse_settings`
    with Stages() as stages:
        for split in config.splits:
            if evaluated(directory, config.name, split):
                continue
            questions = world_questions(World.load(), split, int(config.questions), config.seed, config.crowding)
            asyncio.run(
                evaluate_split(
                    EvaluationRun(directory, stages, config.name),
                    policy,
                    split,
                    questions,
                    _conditions(config, sizes),
                    metrics=own,
                )
            )
    stages_done = read_stages(directory.file(METRICS))
    lines = [
        in_words(f"{stage}, {split}", row) for stage, splits in stages_done.items() for split, row in splits.items()
    ]
    Terminal().print(results_table(stages_done), costs_table(stages_done), *filter(None, lines))
