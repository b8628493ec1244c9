"""A policy on benchmarks, from their files to the tables: what `hypereyes eval --benchmark` does."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.data.benchmarks import (
    BENCHMARKS,
    Benchmark,
    BenchmarkSpec,
    ReadOptions,
    any_row,
    holds_benchmark,
    known_benchmark,
    open_benchmark,
    read_subset,
)
from hypereyes_jax.data.benchmarks.imeb_mini import imeb_mini
from hypereyes_jax.data.sources import Questions, SourceOptions, open_questions
from hypereyes_jax.data.sources.openable import openable
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.judging.service import judging
from hypereyes_jax.env.search.config import SearchKeys
from hypereyes_jax.env.search.distractors import DistractedBackend, world_distractors
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.services import connected
from hypereyes_jax.env.types import Question, StopReason
from hypereyes_jax.env.world import World
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark_run import (
    BenchmarkSummary,
    OpenBenchmark,
    evaluate_benchmark,
    level_summaries,
    read_results,
)
from hypereyes_jax.eval.benchmark_table import own_row, paper_rows, to_csv, to_html, to_latex
from hypereyes_jax.eval.conditions import EvaluationConditions
from hypereyes_jax.eval.metrics import Judged, VisualTokens
from hypereyes_jax.eval.policy import EvaluationRun, Policy, runner
from hypereyes_jax.eval.records import append_record, record_judged
from hypereyes_jax.eval.served import ServedPolicy, served_runner
from hypereyes_jax.files import read_json, write_atomic, write_json
from hypereyes_jax.processing.lengths import visual_tokens
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.typed_json import ShapeError, from_json

IMEB_MINI = "imeb-mini"  # made here, from the offline world
SUMMARIES = "benchmarks.json"


_QUESTIONS = BenchmarkSpec("questions", "questions", (), any_row, rule=JudgeConfig().rule)
_RECORDS = 200  # trajectories kept of a benchmark


def prepare_benchmark(
    name: str,
    data: Path | None,
    subset: Path | None = None,
    options: ReadOptions | None = None,
    reading: SourceOptions | None = None,
) -> OpenBenchmark:
    """The questions to ask; those that can't be read are told and left out, or refused, as `reading` says.

    Pictures are opened once to see whether they can be, so that a run of hours doesn't end at one that can't.

    Raises UserError for a benchmark, folder or subset that there is none of, and for bad rows that are not left out.
    """
    options, reading = options or ReadOptions(), reading or SourceOptions()
    if name == IMEB_MINI and data is None:
        questions = [synth.question for synth in imeb_mini()]
        ids = None if subset is None else set(read_subset(subset))
        if ids is not None and (unknown := sorted(ids - {question.id for question in questions})):
            raise UserError(f"{subset} names ids that IMEB-mini does not have: {', '.join(unknown[:5])}.")
        selection = [question for question in questions if ids is None or question.id in ids]
        return OpenBenchmark(name, BENCHMARKS["imeb"], tuple(q.id for q in selection), selection, False)
    if data is None:
        raise UserError(f"--benchmark {name} needs --data, the folder of its published files.")
    source = "imeb" if name == IMEB_MINI else name
    own_name = known_benchmark(source).name if ":" in source else name
    own = data / own_name  # a folder with a folder for each benchmark, or one of its pictures beside its rows
    folder = own if holds_benchmark(source, own) else data
    benchmark = open_benchmark(source, folder, subset=subset, options=options, reading=reading)
    benchmark = benchmark.select(_openable(benchmark, reading, f"no question of {name}"))
    return OpenBenchmark(own_name, benchmark.spec, benchmark.ids, benchmark, options.choices)


def prepare_questions(source: str, options: SourceOptions) -> OpenBenchmark:
    """The questions of any source, to be asked as a benchmark's are; those that can't be read are told and left out.

    Pictures are opened once to see whether they can be, so that a run of hours doesn't end at one that can't.

    Raises UserError for a source that can't be read, for one with several splits of which none is named, and for a bad
    row if the options refuse such rows.
    """
    questions = open_questions(source, options=options)
    questions.report.refuse_default_split(source)
    usable = questions.select(_openable(questions, options, f"no question of {source}"))
    return OpenBenchmark("questions", _QUESTIONS, usable.ids, usable, False)


def _openable(questions: Questions | Benchmark, options: SourceOptions, none: str) -> list[int]:
    """Numbers of the questions whose pictures can be opened; says what is left out, and why.

    Raises UserError, and closes the questions, for one that can't if such rows are refused, and if none can.
    """
    report = questions.report
    with contextlib.ExitStack() as stack:
        stack.callback(questions.close)
        numbers = openable(questions, report, options.bad_rows)
        for sentence in report.left_out():
            print(sentence)
        if not numbers:
            raise UserError(f"{none} can be asked. {next(iter(report.first_bad.values()))}")
        stack.pop_all()
    return numbers


async def play_benchmarks(
    run: EvaluationRun, policy: Policy | ServedPolicy, opened: Sequence[OpenBenchmark], conditions: EvaluationConditions
) -> list[BenchmarkSummary]:
    """Asks each benchmark as `play_benchmark` does, and returns the summaries, those of levels last."""
    summaries = []
    visual = partial(visual_tokens, min_pixels=conditions.pixels[0], max_pixels=conditions.pixels[1])
    for benchmark in opened:
        own_rule = conditions.judge.rule
        rule = benchmark.spec.rule if own_rule == JudgeConfig().rule else own_rule
        async with (
            judging(replace(conditions.judge, rule=rule)) as judge,
            connected(conditions.search, SearchKeys.of(os.environ)) as (backend, _),
        ):
            summary = await play_benchmark(
                run,
                policy,
                benchmark,
                backend=_distracted(conditions, backend),
                judge=judge,
                episode=conditions.episode,
                sampling=conditions.sampling,
                visual_tokens=visual,
                seed=conditions.seed,
            )
        summaries.append(summary)
    levels = tuple(f"{benchmark.name}-" for benchmark in opened if benchmark.spec.levels)
    filed = read_summaries(run.directory)[run.name] if levels else []
    return [*summaries, *(summary for summary in filed if summary.benchmark.startswith(levels))]


def _distracted(conditions: EvaluationConditions, backend: RecordedBackend) -> RecordedBackend | DistractedBackend:
    """The backend that episodes search: with distractors if some were asked for."""
    if not conditions.distractors:
        return backend
    distractors = world_distractors(World.load())
    return DistractedBackend(backend, distractors, conditions.distractors, conditions.distractor_seed)


async def play_benchmark(
    run: EvaluationRun,
    policy: Policy | ServedPolicy,
    benchmark: OpenBenchmark,
    *,
    backend: RecordedBackend | DistractedBackend,
    judge: Judge,
    episode: EpisodeConfig,
    sampling: SamplingConfig,
    visual_tokens: VisualTokens,
    seed: int = 0,
) -> BenchmarkSummary:
    """Asks what is open and files the summary; the same call continues where an earlier one was stopped.

    Args:
      seed: of the sampling; each question's stream depends on this and its id alone.

    Results lie in `benchmark-NAME-BENCHMARK.jsonl`, the first trajectories in `trajectories-NAME-BENCHMARK.jsonl`.
    """
    directory, name = run.directory, run.name
    results = directory.file(f"benchmark-{name}-{benchmark.name}.jsonl")
    trajectories = directory.file(f"trajectories-{name}-{benchmark.name}.jsonl")
    count = 0
    overfull: list[bool] = []  # of each episode whose context was full: whether that was so before its first turn

    def keep(judged: Judged) -> None:
        nonlocal count
        stage.advance()
        if judged.trajectory.result.stop is StopReason.CONTEXT_LIMIT:
            overfull.append(not judged.trajectory.result.turns)
        if count < _RECORDS:
            append_record(trajectories, record_judged(judged, stage=name, split=benchmark.name, judge=judge.name))
            count += 1

    def sampling_seed(question: Question) -> int:
        return (seed + zlib.crc32(question.id.encode())) % 2**31

    with run.stages.stage(f"{name} on {benchmark.spec.title}", len(benchmark.ids)) as stage:
        summary = await evaluate_benchmark(
            served_runner(policy, backend, episode, sampling)
            if isinstance(policy, ServedPolicy)
            else runner(policy, backend, episode, sampling, seeds=sampling_seed),
            benchmark,
            judge,
            results,
            visual_tokens=visual_tokens,
            spent=lambda: float(backend.metrics.summary()["cost"] or 0.0),
            on_judged=keep,
            run_id=directory.run,
        )
    for sentence in overfull_in_words(overfull):
        run.stages.console.print(sentence, highlight=False)
    _file_summary(directory, name, summary)
    for level in level_summaries(benchmark, read_results(results), summary.published_score):
        _file_summary(directory, name, level)
    return summary


def overfull_in_words(overfull: Sequence[bool]) -> list[str]:
    """Sentences on episodes whose context was full, of each whether that was so before the model's first turn."""
    cure = "they count as wrong: raise --context, or lower the number of images"
    unasked, rest = sum(overfull), len(overfull) - sum(overfull)
    sentences = [f"{unasked} questions do not fit the context and were not asked; {cure}"] if unasked else []
    return sentences + ([f"{rest} episodes ended since the context was full; {cure}"] if rest else [])


def write_tables(directory: RunDirectory) -> list[Path]:
    """The run's models beside the paper's rows, as benchmarks.html, .csv and .tex."""
    rows = [own_row(name, summaries, str(directory.path)) for name, summaries in read_summaries(directory).items()]
    rows += paper_rows()
    paths = []
    for suffix, render in (("html", to_html), ("csv", to_csv), ("tex", to_latex)):
        path = directory.file(f"benchmarks.{suffix}")
        write_atomic(path, render(rows))
        paths.append(path)
    return paths


def read_summaries(directory: RunDirectory) -> dict[str, list[BenchmarkSummary]]:
    """What `play_benchmark` filed, by model. Raises UserError for a damaged file."""
    path = directory.file(SUMMARIES)
    names = {field.name for field in fields(BenchmarkSummary)}
    try:
        summaries = from_json(dict[str, dict[str, dict[str, Any]]], read_json(path) if os.path.lexists(path) else {})
        return {
            model: [
                from_json(BenchmarkSummary, {key: row[key] for key in names & set(row)}, f"{model}.{benchmark}")
                for benchmark, row in rows.items()
            ]
            for model, rows in summaries.items()
        }
    except ShapeError as error:
        raise UserError(f"{path} is damaged ({error}). Remove it and run the same command again.") from None


def _file_summary(directory: RunDirectory, name: str, summary: BenchmarkSummary) -> None:
    path = directory.file(SUMMARIES)
    read_summaries(directory)  # a damaged one must not be added to
    summaries: Any = read_json(path) if os.path.lexists(path) else {}
    mine = {**summaries.get(name, {}), summary.benchmark: asdict(summary)}
    write_json(path, {**summaries, name: mine})
