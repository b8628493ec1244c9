"""A model on a benchmark: asked in parts, each question's result stored as it is made, summed up with intervals."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hypereyes_jax.data.benchmarks import BenchmarkSpec
from hypereyes_jax.env.chat.client import ChatClient, ChatError
from hypereyes_jax.env.judging.judges import MADE_UP, Judge
from hypereyes_jax.env.judging.llm_judge import LlmJudge
from hypereyes_jax.env.judging.published import GradeJudge, JsonJudge, LetterMatch, SquadMatch, token_f1
from hypereyes_jax.env.outages import OutageLimits, failure_in_words, mask_reason
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark import Runner, judge_trajectory
from hypereyes_jax.eval.metrics import Judged, VisualTokens, cost_aware_score, wilson_interval
from hypereyes_jax.eval.own_metrics import OwnMetrics
from hypereyes_jax.files import mend_last_line, parse_file_json, refuse_irregular, writing
from hypereyes_jax.rollout.types import Trajectory

_JUDGED_AT_ONCE = 16
PART = 128  # questions in flight, whose pictures are open, at a time


@dataclass(frozen=True)
class QuestionResult:
    """What became of one question that was scored."""

    id: str
    correct: bool
    published: float | None  # by the benchmark's own score, 0 to 1; None where it has no other or gave no verdict
    answer: str | None
    rounds: int
    searches: int
    tokens: int
    seconds: float
    cost: float  # dollars of search, shared evenly among the questions of a part
    judge: str
    kind: str = ""
    own: dict[str, float] = field(default_factory=dict)  # a user's metrics
    run: str = ""  # id of the run that asked


@dataclass(frozen=True)
class BenchmarkSummary:
    """A cell of the table. Means are over the `n` scored questions."""

    benchmark: str
    n: int
    accuracy: float  # share that the judge accepts
    accuracy_low: float  # 95 % Wilson interval
    accuracy_high: float
    judge: str
    published: float | None  # mean of the benchmark's own score
    published_n: int
    published_score: str  # its name
    turns: float  # rounds that searched, a question
    searches: float
    kilo_tokens: float
    cas: float
    cost: float  # dollars a question
    seconds: float
    unscored: int  # the search or the judge failed: ask again with the same command
    samples: int = 1  # answers to a question; then `n` counts answers, and the interval is of so many questions
    any_correct: float | None = None  # share of the questions that at least one of several answers is right of
    own: dict[str, float] = field(default_factory=dict)  # means of a user's metrics


@dataclass(frozen=True)
class OpenBenchmark:
    """Questions of a benchmark that are read as they are indexed."""

    name: str
    spec: BenchmarkSpec
    ids: tuple[str, ...]
    questions: Sequence[Question]
    choices: bool
    samples: int = 1  # of each question, one after the other: `several_samples`
    metrics: OwnMetrics = field(default_factory=OwnMetrics)  # a user's, of each answer


class _SeveralTimes(Sequence[Question]):
    """Each question so many times in a row, under ids of their own; read as they are indexed."""

    def __init__(self, questions: Sequence[Question], samples: int):
        self._questions, self._samples = questions, samples

    def __len__(self) -> int:
        return len(self._questions) * self._samples

    def __getitem__(self, place: Any) -> Any:
        number, sample = divmod(range(len(self))[place], self._samples)
        question = self._questions[number]
        return replace(question, id=_sample_id(question.id, sample))


def several_samples(benchmark: OpenBenchmark, samples: int) -> OpenBenchmark:
    """The benchmark with every question asked so many times. Raises UserError for fewer than one."""
    if samples < 1:
        raise UserError("--samples must be at least 1")
    if samples == 1:
        return benchmark
    ids = tuple(_sample_id(name, sample) for name in benchmark.ids for sample in range(samples))
    return replace(benchmark, ids=ids, questions=_SeveralTimes(benchmark.questions, samples), samples=samples)


def _sample_id(question: str, sample: int) -> str:
    return f"{question}#{sample}"


def question_of(sample: str) -> str:
    """The id of the question that an id of `several_samples` is of."""
    return sample.rpartition("#")[0]


Score = Callable[[Question, str | None], Any]  # an awaitable of float or None


def published_score(spec: BenchmarkSpec, client: ChatClient | None = None, choices: bool = False) -> tuple[str, Score]:
    """(name, score) of the benchmark's own program. Its score raises ChatError where a chat model that it asks is down.

    Args:
      client: a chat model, which the scores of LiveVQA and BrowseComp-VL need; without one they are None.
      choices: the questions were asked with their options, so the letter counts.
    """
    if spec.published == "f1":

        async def f1(question: Question, answer: str | None) -> float:
            return token_f1(answer, question.answers)

        return "F1", f1
    judge = published_judge(spec, client, choices)

    async def by_judge(question: Question, answer: str | None) -> float | None:
        if isinstance(judge, GradeJudge | JsonJudge) and answer is not None and answer.strip():
            try:
                return float(await judge.verdict(question, answer))
            except ChatError as error:
                if error.fatal or error.transient:
                    raise
                return None
        verdict = None if judge is None else await judge.judge(question, answer)
        return None if verdict is None else float(verdict)

    return ("" if judge is None else judge.name), by_judge


def published_judge(
    spec: BenchmarkSpec, client: ChatClient | None = None, choices: bool = False
) -> SquadMatch | LetterMatch | GradeJudge | JsonJudge | None:
    """Who decides by the benchmark's own program; None where nobody can. Arguments as `published_score`."""
    if spec.published == "exact":
        return SquadMatch()
    if spec.published == "letter" or (choices and spec.published == "grade"):
        return LetterMatch()
    if spec.published == "grade" and client is not None:
        return GradeJudge(client)
    if spec.published == "json" and client is not None:
        return JsonJudge(client)
    return None


async def _ask_first(grader: object) -> None:
    """Has a chat model grade a made-up answer, before anything is spent. Raises UserError if no grade comes."""
    if isinstance(grader, GradeJudge | JsonJudge):
        try:
            await grader.verdict(MADE_UP, MADE_UP.answers[0])
        except ChatError as error:
            raise UserError(f"the benchmark's own grader {grader.name} can't be used: {error}") from error


async def evaluate_benchmark(
    run: Runner,
    benchmark: OpenBenchmark,
    judge: Judge,
    results: Path,
    *,
    visual_tokens: VisualTokens,
    spent: Callable[[], float] = lambda: 0.0,
    part: int = PART,
    on_judged: Callable[[Judged], None] = lambda judged: None,
    run_id: str = "",
) -> BenchmarkSummary:
    """Asks what `results` does not hold yet, and sums all of it up.

    A question is written to `results` (JSON lines) as soon as it is scored, and what it cost is what searches have cost
    since the one before. One that could not be, because the search, the judge or the benchmark's own grader failed, is
    not: the same call asks it again.

    Args:
      benchmark: its questions are indexed part by part, so that the pictures of one part are open at a time.
      judge: where it asks a chat model, the benchmark's own score does, too.
      spent: dollars that searches have cost so far.
      on_judged: called with each trajectory once it is judged.
      run_id: of the run that asks; `results` of another are refused.

    Raises:
      UserError: `results` are of another judge or run, or damaged; the benchmark's own grader gives no grade; nothing
        could be scored, or nothing any more.
    """
    client = judge.client if isinstance(judge, LlmJudge) else None
    score_name, score = published_score(benchmark.spec, client, benchmark.choices)
    results_by_id = read_results(results)
    other = {row.judge for row in results_by_id.values()} - {judge.name}
    if other:
        raise UserError(
            f"{results} was judged by {min(other)}, now it is {judge.name}. Choose another --out or --name."
        )
    if run_id and any(row.run not in ("", run_id) for row in results_by_id.values()):
        raise UserError(
            f"{results} was written by another run. Remove it, and its questions are asked again, or choose another "
            "--out."
        )
    open_places = [place for place, name in enumerate(benchmark.ids) if name not in results_by_id]
    mend_last_line(results)  # of a kill
    if open_places:
        await _ask_first(published_judge(benchmark.spec, client, benchmark.choices))
    reasons: Counter[str] = Counter()  # of what could not be scored
    paid, in_a_row, gate = spent(), 0, asyncio.Semaphore(_JUDGED_AT_ONCE)

    async def finish(trajectory: Trajectory) -> None:
        nonlocal paid, in_a_row
        judged, row, why = await judge_trajectory(trajectory, judge, gate, visual_tokens), None, ""
        if judged.correct is None:
            why = mask_reason(trajectory.result, None)
        else:
            try:
                row = await _result(judged, score, judge.name, benchmark.metrics)
            except ChatError as error:
                if error.fatal:
                    raise
                why = f"{score_name} gave no grade: {error}"
        if row is None:
            reasons[why] += 1
            in_a_row += 1
            on_judged(judged)
            return
        now = spent()
        row, paid = replace(row, cost=now - paid, run=run_id), now
        _append(results, row)
        results_by_id[row.id] = row
        in_a_row = 0
        on_judged(judged)

    for start in range(0, len(open_places), part):
        batch = [benchmark.questions[place] for place in open_places[start : start + part]]
        ends: list[asyncio.Task[None]] = []

        def ended(number: int, trajectory: Trajectory, ends: list[asyncio.Task[None]] = ends) -> None:
            ends.append(asyncio.ensure_future(finish(trajectory)))

        try:
            await run(batch, ended)
        finally:  # what was played is kept, also of a part that ends early
            await asyncio.gather(*ends)
        if reasons and (not results_by_id or in_a_row >= OutageLimits.in_a_row):  # not a few: nothing works
            raise failure_in_words(f"the last {in_a_row} answers to {benchmark.name} could not be scored", reasons)
    results_in_order = [results_by_id[name] for name in benchmark.ids if name in results_by_id]
    return summarise_results(benchmark.name, results_in_order, score_name, reasons.total(), benchmark.samples)


def level_summaries(
    benchmark: OpenBenchmark, results: Mapping[str, QuestionResult], published_score: str
) -> list[BenchmarkSummary]:
    """A summary of each level of a benchmark that has several, under BENCHMARK-LEVEL; none for other benchmarks."""
    summaries = []
    for level in benchmark.spec.levels:
        rows = [results[name] for name in benchmark.ids if f"-{level}" in name and name in results]
        if rows:
            name = f"{benchmark.name}-{level}"
            summaries.append(summarise_results(name, rows, published_score, samples=benchmark.samples))
    return summaries


def summarise_results(
    benchmark: str, rows: Sequence[QuestionResult], published_score: str = "", unscored: int = 0, samples: int = 1
) -> BenchmarkSummary:
    """Means over the answers, with n and interval.

    Several answers to one question are not independent tries: the interval is as wide as one answer a question gives.
    """
    n, right = len(rows), sum(row.correct for row in rows)
    by_question: dict[str, list[bool]] = {}
    for row in rows:
        by_question.setdefault(question_of(row.id) if samples > 1 else row.id, []).append(row.correct)
    questions = len(by_question)
    low, high = wilson_interval(round(right / n * questions) if n else 0, questions)
    published = [row.published for row in rows if row.published is not None]

    def mean(values: Sequence[float]) -> float:
        return fmean(values) if values else 0.0

    accuracy, turns = right / n if n else 0.0, mean([row.rounds for row in rows])
    kilo_tokens = mean([row.tokens / 1000 for row in rows])
    return BenchmarkSummary(
        benchmark=benchmark,
        n=n,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        judge=rows[0].judge if rows else "",
        published=mean(published) if published else None,
        published_n=len(published),
        published_score=published_score,
        turns=turns,
        searches=mean([row.searches for row in rows]),
        kilo_tokens=kilo_tokens,
        cas=cost_aware_score(accuracy, kilo_tokens, turns),
        cost=mean([row.cost for row in rows]),
        seconds=mean([row.seconds for row in rows]),
        unscored=unscored,
        samples=samples,
        any_correct=mean([float(any(each)) for each in by_question.values()]) if samples > 1 else None,
        own={name: mean([row.own[name] for row in rows]) for name in (rows[0].own if rows else ())},
    )


def read_results(path: Path) -> dict[str, QuestionResult]:
    """Results by id; a last line that was cut off by a kill is left out. Raises UserError for any other damage."""
    if not path.exists():
        return {}
    rows: dict[str, QuestionResult] = {}
    refuse_irregular(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    whole, _, _ = text.rpartition("\n")
    for number, line in enumerate(whole.split("\n") if whole else (), start=1):
        try:
            row = _read(parse_file_json(line))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number} is not a result ({error}). Remove the line, and it is asked again."
            ) from None
        rows[row.id] = row
    return rows


def _read(value: Any) -> QuestionResult:
    if not isinstance(value, Mapping):
        raise TypeError("it must be an object")
    names = {each.name for each in fields(QuestionResult)}
    row = QuestionResult(**{name: value[name] for name in names if name in value or name != "run"})
    numbers = (row.rounds, row.searches, row.tokens, row.seconds, row.cost, row.published or 0)
    if not isinstance(row.kind, str) or not isinstance(row.answer, str | None):
        raise TypeError("kind must be a string, and answer a string or null")
    if not all(isinstance(text, str) for text in (row.id, row.judge, row.run)) or not isinstance(row.correct, bool):
        raise TypeError("id, verdict and judge must be there")
    if any(isinstance(x, bool) or not isinstance(x, int | float) or not 0 <= x < float("inf") for x in numbers):
        raise TypeError("its numbers must be finite and not negative")
    own = row.own.values() if isinstance(row.own, dict) else (None,)
    if any(isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x) for x in own):
        raise TypeError("own metrics must be finite numbers by name")
    return row


async def _result(judged: Judged, score: Score, judge: str, metrics: OwnMetrics) -> QuestionResult:
    result = judged.trajectory.result
    question = result.question
    return QuestionResult(
        id=question.id,
        correct=bool(judged.correct),
        published=await score(question, result.answer),
        answer=result.answer,
        rounds=result.rounds,
        searches=result.invocations,
        tokens=judged.tokens,
        seconds=judged.trajectory.seconds,
        cost=0.0,
        judge=judge,
        kind=question.kind,
        own=metrics.of(result, judged.correct),
    )


def _append(path: Path, row: QuestionResult) -> None:
    with writing(path), open(path, "ab") as file:
        file.write((json.dumps(asdict(row), ensure_ascii=False) + "\n").encode("utf-8", "replace"))
