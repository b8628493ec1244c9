"""Studies that evaluate a trained policy again and again: tool budgets, seeds, distractors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from hypereyes_jax.files import parse_file_json, write_atomic
from hypereyes_jax.study.comparisons import FULL
from hypereyes_jax.study.pipelines import Pipelines
from hypereyes_jax.study.results import Results, read_evaluations
from hypereyes_jax.study.statistics import Interval, binomial_spread, direction, paired_difference, spread
from hypereyes_jax.study.types import Chart, Outcome, Point, Study, StudyOptions, StudyStep, Table

BUDGETS = tuple(range(1, 9))
DISTRACTORS = (1, 3, 5, 7, 10)  # the paper's
_SAMPLING_SEEDS = 3
_CONTEXT = 2048  # tokens of an episode with ten distractors among each search's results


def budget(options: StudyOptions) -> Study:
    """Accuracy and rounds where an episode may take so many rounds at most."""
    pipelines = Pipelines(options)
    folders = {
        model: {
            limit: {
                label: pipelines.evaluation(f"{label} budget {limit}", path, more=("--budget", str(limit)))
                for label, path in paths.items()
            }
            for limit in BUDGETS
        }
        for model, paths in _policies(pipelines).items()
    }

    def summary() -> Outcome:
        results = {
            model: {limit: read_evaluations(each) for limit, each in limits.items()}
            for model, limits in folders.items()
        }
        return budget_outcome(results)

    return Study("budget", tuple(pipelines.steps), summary)


def budget_outcome(results: Mapping[str, Mapping[int, Results]]) -> Outcome:
    """The paper: accuracy is best at a small budget and falls after it, while rounds go on growing."""
    rows: list[tuple[str | float | int | None, ...]] = []
    right, rounds, sentences = [], [], []
    for model, by_budget in results.items():
        for limit, each in by_budget.items():
            rows.append(_row(f"{model}, budget {limit}", each))
        right.append((model, _points(by_budget, [each.accuracy() for each in by_budget.values()])))
        rounds.append((model, _points(by_budget, [each.mean("rounds") for each in by_budget.values()])))
        best = max(by_budget, key=lambda limit: by_budget[limit].accuracy().value)
        most = max(by_budget)
        change = paired_difference(by_budget[best].correct, by_budget[most].correct)
        fall = "is" if change is None or best == most else _words(direction(change, -1))
        interval = "" if change is None else f" ({100 * change.low:.1f} to {100 * change.high:.1f} points, 95 %)"
        sentences.append(
            f"{model} is most often right at a budget of {best}; the paper's fall from the best budget to {most} "
            + (f"{fall}{interval}." if best != most else "can't be seen, since the largest is the best.")
        )
    charts = (
        Chart("Accuracy by tool budget", "right %", tuple(right), "rounds allowed"),
        Chart("Rounds by tool budget", "rounds a question", tuple(rounds), "rounds allowed"),
    )
    return Outcome("Tool budget", Table(_HEADINGS, tuple(rows)), charts, tuple(sentences))


def seeds(options: StudyOptions) -> Study:
    """The same evaluation of several trainings, and of one policy sampled with several seeds."""
    pipelines = Pipelines(options)
    stages = {seed: pipelines.stage(FULL, "rl", seed) for seed in options.seeds}
    model = pipelines.rl(FULL, options.seeds[0]) / "model"
    sampled = {
        1000 + number: pipelines.evaluation("sampling", model, seed=1000 + number) for number in range(_SAMPLING_SEEDS)
    }

    def summary() -> Outcome:
        return seeds_outcome(
            {f"training seed {seed}": read_evaluations({str(seed): each}) for seed, each in stages.items()},
            {f"sampling seed {seed}": read_evaluations({str(seed): each}) for seed, each in sampled.items()},
        )

    return Study("seeds", tuple(pipelines.steps), summary)


def seeds_outcome(trained: Mapping[str, Results], sampled: Mapping[str, Results]) -> Outcome:
    """The paper: the accuracy of three seeds has a standard deviation of 0.19 points over six benchmarks."""
    rows = [_row(name, each) for name, each in (*trained.items(), *sampled.items())]
    sentences = []
    for of, results in (("training", trained), ("sampling", sampled)):
        shares = [each.accuracy().value for each in results.values()]
        n = next(iter(results.values())).n
        chance = 100 * binomial_spread(sum(shares) / len(shares) / 100, n)
        if len(shares) == 1:  # a spread needs two
            sentences.append(f"One seed of {of}: {shares[0]:.1f} % right; --seeds names more.")
            continue
        sentences.append(
            f"Over {len(shares)} seeds of {of}: {sum(shares) / len(shares):.1f} % right, standard deviation "
            f"{spread(shares):.1f} points; drawing {n} other questions would by itself give {chance:.1f}. "
            "The paper prints 0.19 points for the mean of six benchmarks."
        )
    labels = tuple([*trained, *sampled])
    values = [each.accuracy() for each in (*trained.values(), *sampled.values())]
    chart = Chart("Accuracy by seed", "right %", (("", _points(range(len(labels)), values)),), labels=labels)
    return Outcome("Seeds", Table(_HEADINGS, tuple(rows)), (chart,), tuple(sentences))


def distractors(options: StudyOptions) -> Study:
    """What was right stays right? Results of other searches are mixed into those of each search, in several orders."""
    pipelines = Pipelines(options)
    folders: dict[str, dict[int, dict[str, Path]]] = {}
    for model, paths in _policies(pipelines).items():
        label, path = next(iter(paths.items()))
        plain = pipelines.evaluation(f"{label} without distractors", path)
        questions = pipelines.options.out / "right" / f"{plain.name}.jsonl"
        step = StudyStep(
            f"right questions of {label}",
            questions,
            make=partial(keep_right, plain, pipelines.test_questions(), questions),
        )
        pipelines.add(step)
        more = ("--questions", str(questions), "--context", str(_CONTEXT))
        folders[model] = {
            count: {
                str(order): pipelines.evaluation(
                    f"{label} {count} distractors", path, more=(*more, "--distractors", str(count)), seed=2000 + order
                )
                for order in range(options.shuffles)
            }
            for count in DISTRACTORS
        }

    def summary() -> Outcome:
        return distractors_outcome(
            {model: {k: read_evaluations(each) for k, each in counts.items()} for model, counts in folders.items()}
        )

    return Study("distractors", tuple(pipelines.steps), summary)


def keep_right(evaluation: Path, questions: Path, out: Path) -> None:
    """Writes those questions, as their file has them, that an evaluation has right."""
    right = {row.id for row in read_evaluations({"": evaluation}).rows.values() if row.correct}
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [line for line in questions.read_bytes().splitlines(keepends=True) if _id(line) in right]
    write_atomic(out, b"".join(lines))


def distractors_outcome(results: Mapping[str, Mapping[int, Results]]) -> Outcome:
    """The paper: of what is right without distractors, 93 % stays right with one and 91 % with ten."""
    rows = [_row(f"{model}, {k} distractors", each) for model, counts in results.items() for k, each in counts.items()]
    lines, sentences = [], []
    for model, counts in results.items():
        lines.append((model, _points(counts, [each.accuracy() for each in counts.values()])))
        few, many = min(counts), max(counts)
        change = paired_difference(counts[few].correct, counts[many].correct)
        if change is None:
            continue
        loss = f"{100 * change.value:+.1f} points (95 % {100 * change.low:.1f} to {100 * change.high:.1f})"
        sentences.append(
            f"{model} loses from {few} to {many} distractors: {loss}; the paper's policy loses 2.1. That accuracy does "
            f"not fall measurably {'was seen' if direction(change, -1) != 'seen' else 'was not seen'}."
        )
    chart = Chart("Right answers that stay right", "right %", tuple(lines), "distractors a search")
    return Outcome("Distractors", Table(_HEADINGS, tuple(rows)), (chart,), tuple(sentences))


def _policies(pipelines: Pipelines) -> dict[str, dict[str, Path]]:
    """The trained policies by stage and label; or the one that was given."""
    options = pipelines.options
    if options.policy:
        return {"policy": {"policy": Path(options.policy)}}
    return {
        "sft": {f"sft seed {seed}": pipelines.sft(FULL, seed) for seed in options.seeds},
        "rl": {f"rl seed {seed}": pipelines.rl(FULL, seed) / "model" for seed in options.seeds},
    }


_HEADINGS = ("policy", "right %", "95 %", "rounds", "searches", "n")


def _row(name: str, results: Results) -> tuple[str | float | int | None, ...]:
    accuracy = results.accuracy()
    span = f"{accuracy.low:.1f} to {accuracy.high:.1f}"
    return name, accuracy.value, span, results.mean("rounds").value, results.mean("searches").value, results.n


def _points(places: Sequence[int] | Mapping[int, Results] | range, values: Sequence[Interval]) -> tuple[Point, ...]:
    return tuple(Point(float(place), *value) for place, value in zip(places, values, strict=True))


def _words(verdict: str) -> str:
    return {"seen": "was seen", "opposite": "was not seen, it rises", "undecided": "is not decided"}[verdict]


def _id(line: bytes) -> str:
    row = parse_file_json(line)
    return str(row["id"]) if isinstance(row, Mapping) and "id" in row else ""
