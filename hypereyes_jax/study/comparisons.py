"""Studies that train variants and compare each with the first: ablations, rewards, paradigms, depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hypereyes_jax.study.pipelines import Pipelines, Stage, Variant
from hypereyes_jax.study.results import Results, question_depths, read_evaluations, read_references
from hypereyes_jax.study.statistics import Interval, direction, paired_difference
from hypereyes_jax.study.types import Chart, Outcome, Point, Study, StudyName, StudyOptions, Table

FULL = Variant("full")
NO_TRACE = Variant("no-trace", rl=("--reward.kind", "cost-weighted", "--reward.alpha", "1", "--reward.beta", "0"))
STATIC = Variant("static-reference", rl=("--tighten", "never"))
ABLATIONS = (
    FULL,
    NO_TRACE,
    STATIC,
    Variant("step-tightening", rl=("--tighten", "step")),
    Variant("no-opd", teacher="none"),
    Variant("vanilla-teacher", teacher="vanilla"),
    Variant("no-prs", demonstrations=("--sampling", "whole-budget"), own_selection=True),
    Variant(
        "no-curation",
        demonstrations=("--sampling", "first-try", "--no-filters"),
        rl=("--select", "no"),
        own_selection=True,
    ),
    Variant("serial-only", serial=True, own_selection=True),
)
_PRICES = ("0.02", "0.05", "0.1")
REWARDS = (
    Variant("trace"),
    *(
        Variant(
            f"alpha-1-beta-{beta}", rl=("--reward.kind", "cost-weighted", "--reward.alpha", "1", "--reward.beta", beta)
        )
        for beta in _PRICES
    ),
)
PARADIGMS = (
    Variant("ugs"),
    Variant("llm-crop", paradigm="llm-crop"),
    Variant("code-crop", paradigm="code-crop"),
    Variant("serial", serial=True),
)
_HEADINGS = (
    "variant",
    "right %",
    "95 %",
    "rounds",
    "searches",
    "n",
    "right % - first",
    "95 %",
    "rounds - first",
    "95 %",
)


def ablations(options: StudyOptions) -> Study:
    """Each part of the method left out in turn; rows of base and SFT beside."""
    pipelines = Pipelines(options)
    return _compared("ablations", "Ablations, after RL", pipelines, ABLATIONS, "rl", {"step-tightening": None})


def reward(options: StudyOptions) -> Study:
    """TRACE against alpha * accuracy - beta * rounds."""
    return _compared("reward", "TRACE against a price of rounds, after RL", Pipelines(options), REWARDS, "rl", {})


def paradigms(options: StudyOptions) -> Study:
    """Grounding in the search against crops apart and one search a turn, after SFT on demonstrations of each."""
    return _compared("paradigms", "Grounding paradigms, after SFT", Pipelines(options), PARADIGMS, "sft", {})


def depth(options: StudyOptions) -> Study:
    """Rounds and accuracy by the rounds that a question needs, at each stage, and the references over epochs."""
    pipelines = Pipelines(options, depths=(1, 2, 3, 4))
    variants = (FULL, STATIC, NO_TRACE)
    folders: dict[str, dict[str, Path]] = {}
    for stage in ("base", "sft"):
        folders[stage] = {str(seed): pipelines.stage(FULL, stage, seed) for seed in options.seeds}
    for variant in variants:
        like = None if variant is FULL else FULL
        folders[f"rl {variant.name}"] = {str(s): pipelines.stage(variant, "rl", s, like) for s in options.seeds}
    runs = {
        variant.name: [pipelines.rl(variant, seed, None if variant is FULL else FULL) for seed in options.seeds]
        for variant in variants
    }
    candidates = Path(options.questions) if options.questions else pipelines.data() / "rl_candidates.jsonl"
    questions = pipelines.test_questions()

    def summary() -> Outcome:
        return _depth_outcome(folders, question_depths(questions), runs, question_depths(candidates))

    summarised = {folder for each in runs.values() for folder in each} | {candidates.parent, questions.parent}
    return Study("depth", tuple(pipelines.steps), summary, frozenset(summarised))


def _compared(
    name: StudyName,
    title: str,
    pipelines: Pipelines,
    variants: Sequence[Variant],
    stage: Stage,
    claims: Mapping[str, None],
) -> Study:
    """`claims`: variants of which the paper claims nothing, such as another schedule of the same rule."""
    options = pipelines.options
    missing = tuple(why for variant in variants if (why := pipelines.unavailable(variant)))
    run = [variant for variant in variants if not pipelines.unavailable(variant)]
    first, *others = run
    folders: dict[str, dict[str, Path]] = {}
    for seed in options.seeds:  # one seed after the other, so that a first sitting compares all variants
        if stage == "rl":
            for before in ("base", "sft"):
                folders.setdefault(f"({before})", {})[str(seed)] = pipelines.stage(first, before, seed)
        folders.setdefault(first.name, {})[str(seed)] = pipelines.stage(first, stage, seed)
        for variant in others:
            folders.setdefault(variant.name, {})[str(seed)] = pipelines.stage(variant, stage, seed, first)

    def summary() -> Outcome:
        results = {label: read_evaluations(each) for label, each in folders.items()}
        return compared(title, results, first.name, missing, silent=tuple(claims))

    return Study(name, tuple(pipelines.steps), summary)


def compared(
    title: str, results: Mapping[str, Results], first: str, missing: Sequence[str] = (), silent: Sequence[str] = ()
) -> Outcome:
    """The variants beside the first one, question by question, and whether the paper's direction was seen.

    Args:
      results: by variant; names in brackets are stages before, of which nothing is claimed.
      silent: variants of which the paper claims nothing.
    """
    one = results[first]
    rows: list[tuple[str | float | int | None, ...]] = []
    sentences = []
    for name, each in results.items():
        accuracy = each.accuracy()
        cells: tuple[str | float | int | None, ...] = (
            name,
            accuracy.value,
            f"{accuracy.low:.1f} to {accuracy.high:.1f}",
            each.mean("rounds").value,
            each.mean("searches").value,
            each.n,
        )
        right, rounds = paired_difference(one.correct, each.correct), paired_difference(one.rounds, each.rounds)
        if name == first or right is None or rounds is None:
            rows.append((*cells, None, None, None, None))
            continue
        rows.append((*cells, 100 * right.value, _span(right, 100), rounds.value, _span(rounds)))
        if not name.startswith("("):
            sentences.append(_sentence(name, first, right, rounds, name not in silent))
    labels = tuple(results)
    charts = (
        _by_variant("Accuracy", "right %", labels, [each.accuracy() for each in results.values()]),
        _by_variant("Rounds", "rounds a question", labels, [each.mean("rounds") for each in results.values()]),
    )
    return Outcome(title, Table(_HEADINGS, tuple(rows)), charts, tuple(sentences), tuple(missing))


def _sentence(name: str, first: str, right: Interval, rounds: Interval, claimed: bool) -> str:
    sentence = (
        f"{name} against {first}: {100 * right.value:+.1f} points right (95 % {_span(right, 100)}) and "
        f"{rounds.value:+.2f} rounds ({_span(rounds)})"
    )
    if not claimed:
        return f"{sentence}. The paper claims no direction."
    fewer, more = direction(right, -1), direction(rounds, 1)
    words = {"seen": "was seen", "opposite": "was not: the opposite was seen", "undecided": "is not decided"}
    return f"{sentence}. Of the paper's direction, fewer right {words[fewer]}, and more rounds {words[more]}."


def _span(interval: Interval, scale: float = 1.0) -> str:
    digits = 1 if scale != 1 else 2
    return f"{scale * interval.low:.{digits}f} to {scale * interval.high:.{digits}f}"


def _by_variant(title: str, y_label: str, labels: tuple[str, ...], values: Sequence[Interval]) -> Chart:
    points = tuple(Point(float(n), v.value, v.low, v.high) for n, v in enumerate(values))
    return Chart(title, y_label, (("", points),), labels=labels)


def _depth_outcome(
    folders: Mapping[str, Mapping[str, Path]],
    depths: Mapping[str, int],
    runs: Mapping[str, Sequence[Path]],
    trained_depths: Mapping[str, int],
) -> Outcome:
    results = {label: read_evaluations(each) for label, each in folders.items()}
    levels = sorted(set(depths.values()))
    rows: list[tuple[str | float | int | None, ...]] = []
    by_stage: dict[str, list[tuple[str, tuple[Point, ...]]]] = {"right %": [], "rounds": []}
    for label, whole in results.items():
        points: dict[str, list[Point]] = {"right %": [], "rounds": []}
        for level in levels:
            part = whole.where([key for key, depth in depths.items() if depth == level])
            if not part.n:
                continue
            accuracy, rounds = part.accuracy(), part.mean("rounds")
            between = f"{accuracy.low:.1f} to {accuracy.high:.1f}"
            rows.append((label, level, accuracy.value, between, rounds.value, _span(rounds), part.n))
            points["right %"].append(Point(level, *accuracy))
            points["rounds"].append(Point(level, *rounds))
        for measure, of in points.items():
            by_stage[measure].append((label, tuple(of)))
    charts = [
        Chart(f"{measure} by the rounds that a question needs", measure, tuple(series), "rounds needed")
        for measure, series in by_stage.items()
    ]
    charts += _reference_charts(runs, trained_depths)
    headings = ("stage", "rounds needed", "right %", "95 %", "rounds", "95 %", "n")
    return Outcome("Depth", Table(headings, tuple(rows)), tuple(charts), _depth_sentences(results, depths, levels))


def _depth_sentences(
    results: Mapping[str, Results], depths: Mapping[str, int], levels: Sequence[int]
) -> tuple[str, ...]:
    """The paper's claim in two halves: superfluous rounds fall, and rounds stay where hops are genuine."""
    before, after = results["sft"], results["rl full"]
    sentences = []
    for level in levels:
        keys = [key for key, depth in depths.items() if depth == level]
        one, other = before.where(keys), after.where(keys)
        change = paired_difference(one.rounds, other.rounds)
        if change is None:
            continue
        solutions = Results({key: row for key, row in other.rows.items() if row.correct})
        right_answers = (
            f"right answers took {solutions.mean('rounds').value:.2f}" if solutions.n else "no answer was right"
        )
        fall = {"seen": "fell", "opposite": "rose", "undecided": "did not change measurably"}[direction(change, -1)]
        sentences.append(
            f"At a necessary depth of {level} rounds {fall} from SFT to RL: {change.value:+.2f} ({_span(change)}); "
            f"after RL {right_answers}."
        )
    for name in ("rl static-reference", "rl no-trace"):
        deep = [key for key, depth in depths.items() if depth >= 3]
        one, other = after.where(deep), results[name].where(deep)
        right, rounds = paired_difference(one.correct, other.correct), paired_difference(one.rounds, other.rounds)
        if right is not None and rounds is not None:
            sentences.append(f"On questions of depth 3 and more, {_sentence(name, 'rl full', right, rounds, True)}")
    return tuple(sentences)


def _reference_charts(runs: Mapping[str, Sequence[Path]], depths: Mapping[str, int]) -> list[Chart]:
    """Mean rounds of the references by depth over the epochs of each variant's first seed."""
    charts = []
    for name, folders in runs.items():
        log = read_references(folders[0])
        series = []
        for level in sorted(set(depths.values())):
            points = []
            for epoch, (_, references) in enumerate(log):
                rounds = [c for key, (c, _) in references.items() if depths.get(key) == level]
                if rounds:
                    mean = sum(rounds) / len(rounds)
                    points.append(Point(float(epoch), mean, mean, mean))
            if points:
                series.append((f"depth {level}", tuple(points)))
        if series:
            charts.append(Chart(f"References of {name} over epochs", "rounds of the reference", tuple(series), "epoch"))
    return charts


Build = Callable[[StudyOptions], Study]
