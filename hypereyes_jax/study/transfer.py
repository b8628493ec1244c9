"""Does searching wider transfer? A policy trained on flags, asked about a domain that no training has touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hypereyes_jax.errors import UserError
from hypereyes_jax.study.comparisons import FULL
from hypereyes_jax.study.pipelines import Pipelines, Stage
from hypereyes_jax.study.results import Results, found_at_once, read_evaluations
from hypereyes_jax.study.statistics import Interval, direction, mean_interval
from hypereyes_jax.study.types import Chart, Outcome, Point, Study, StudyOptions, Table

STEPS = 20  # of RL on the second domain
_NATURE = ("--search.service", "nature")
_STAGES: tuple[Stage, ...] = ("base", "sft", "rl")


def transfer(options: StudyOptions) -> Study:
    """Flags and the second domain side by side at each stage, and after a few steps of RL on the second domain."""
    if not options.miniature:
        raise UserError("transfer is about the miniature's two domains: leave out --recipe.")
    pipelines = Pipelines(options)
    sizes = ("--rl-candidates", str(options.rl_candidates), "--eval-questions", str(options.test_questions))
    nature = pipelines.command("nature", ("synth", "--domain", "nature", *sizes), "synth.json")
    questions = ("--questions", str(nature / "heldout.jsonl"), "--search.service", "nature")
    folders: dict[str, dict[str, dict[str, Path]]] = {"flags": {}, "nature": {}}
    for seed in options.seeds:
        models: dict[str, Path | str] = {"base": pipelines.base(), "sft": pipelines.sft(FULL, seed)}
        models["rl"] = pipelines.rl(FULL, seed) / "model"
        for stage in _STAGES:
            where = folders["flags"].setdefault(stage, {})
            where[str(seed)] = pipelines.stage(FULL, stage, seed)
        models[f"rl, {STEPS} steps on nature"] = _further(pipelines, models["rl"], nature, seed) / "model"
        for label, model in models.items():
            where = folders["nature"].setdefault(label, {})
            where[str(seed)] = pipelines.evaluation(f"{label} seed {seed} on nature", model, more=questions)

    questions_of = {"flags": pipelines.test_questions(), "nature": nature / "heldout.jsonl"}

    def summary() -> Outcome:
        def shares(domain: str, by_seed: Mapping[str, Path]) -> list[float]:
            questions = questions_of[domain]
            return [share for folder in by_seed.values() for share in found_at_once(folder, questions).values()]

        return transfer_outcome(
            {
                domain: {stage: read_evaluations(each) for stage, each in stages.items()}
                for domain, stages in folders.items()
            },
            {
                domain: {stage: shares(domain, each) for stage, each in stages.items()}
                for domain, stages in folders.items()
            },
        )

    read = frozenset(path.parent for path in questions_of.values())
    return Study("transfer", tuple(pipelines.steps), summary, read)


def _further(pipelines: Pipelines, model: Path | str, nature: Path, seed: int) -> Path:
    """RL on the second domain, without a teacher: none has seen it.

    On all candidates: a policy that answers almost none of them would have none left after a selection.
    """
    words = ["rl", "--checkpoint", str(model), "--questions", str(nature / "rl_candidates.jsonl"), *_NATURE]
    words += ["--settings.steps", str(STEPS), "--settings.seed", str(seed), "--settings.keep-groups", "0"]
    words += ["--settings.opd-coef", "0", "--select", "no", *pipelines.further_rl()]
    return pipelines.command(f"rl on nature seed {seed}", words, "model")


def transfer_outcome(
    results: Mapping[str, Mapping[str, Results]], shares: Mapping[str, Mapping[str, Sequence[float]]]
) -> Outcome:
    """Accuracy, rounds, searches, searches a round (how wide a policy searches) and what the first turn found.

    Args:
      results: by domain and stage.
      found: by domain and stage, `found_at_once` of each question; none where no trajectory is there any more.
    """
    rows: list[tuple[str | float | int | None, ...]] = []
    lines = []
    names = list(dict.fromkeys(stage for stages in results.values() for stage in stages))
    for domain, stages in results.items():
        points = []
        for stage, each in stages.items():
            accuracy, wide = each.accuracy(), width(each)
            span = f"{accuracy.low:.1f} to {accuracy.high:.1f}"
            cells = (domain, stage, accuracy.value, span, each.mean("rounds").value, each.mean("searches").value)
            at_once = shares[domain][stage]
            share = 100 * mean_interval(at_once).value if at_once else None
            rows.append((*cells, wide.value, share, each.n))
            points.append(Point(float(names.index(stage)), *wide))
        lines.append((domain, tuple(points)))
    before, after = results["nature"]["base"], results["nature"]["rl"]
    sentences = [_change("Zero-shot on the second domain, RL on flags changes", before, after)]
    trained = [stage for stage in results["nature"] if stage not in _STAGES]
    sentences += [_change(f"After {STEPS} steps there, RL changes", after, results["nature"][s]) for s in trained]
    sentences += _search_sentences(shares["nature"])
    headings = ("domain", "stage", "right %", "95 %", "rounds", "searches", "searches a round", "found at once %", "n")
    chart = Chart("Searches a round", "searches a round", tuple(lines), labels=tuple(names))
    return Outcome("Transfer to a second domain", Table(headings, tuple(rows)), (chart,), tuple(sentences))


def _search_sentences(by_stage: Mapping[str, Sequence[float]]) -> list[str]:
    """How much of what is needed the first searching turn finds on the second domain, before and after."""
    shares = {stage: mean_interval(each) for stage, each in by_stage.items() if each}
    finds = [f"{100 * s.value:.0f} % ({100 * s.low:.0f} to {100 * s.high:.0f}) {stage}" for stage, s in shares.items()]
    text = f"Of the pictured things that a question needs, the first searching turn finds {', '.join(finds)}."
    return [text] if finds else []


def width(results: Results) -> Interval:
    """Mean searches a round, of the questions that were searched for; 0 where none was."""
    wide = [row.searches / row.rounds for row in results.rows.values() if row.rounds]
    return mean_interval(wide) if wide else Interval(0.0, 0.0, 0.0)


def _change(opening: str, before: Results, after: Results) -> str:
    """Differences of means with intervals, unpaired where questions without a search have no width."""
    one, other = width(before), width(after)
    # Independent means: the interval of their difference from the two half-widths.
    half = ((one.high - one.low) ** 2 + (other.high - other.low) ** 2) ** 0.5 / 2
    change = Interval(other.value - one.value, other.value - one.value - half, other.value - one.value + half)
    words = {"seen": "it searches wider", "opposite": "it searches less wide", "undecided": "its width is undecided"}
    right = f"{before.accuracy().value:.1f} to {after.accuracy().value:.1f} % right"
    return (
        f"{opening} the searches a round from {one.value:.2f} to {other.value:.2f} (difference {change.low:+.2f} to "
        f"{change.high:+.2f}, 95 %; {words[direction(change, 1)]}), and {right}, in "
        f"{before.mean('rounds').value:.2f} and {after.mean('rounds').value:.2f} rounds."
    )
