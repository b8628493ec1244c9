"""The nouns of a study: steps, which are commands, and what their results come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hypereyes_jax.configs.recipes import MINIATURE

StudyName = Literal["budget", "seeds", "paradigms", "distractors", "ablations", "reward", "depth", "transfer"]


@dataclass(frozen=True)
class StudyStep:
    """One thing that a study needs done: a `hypereyes` command, or a file that is made from results."""

    name: str
    """Name for a person to read: which stage of which variant."""
    done: Path
    """Exists once the step is whole."""
    words: tuple[str, ...] = ()
    """The command, without `hypereyes`."""
    make: Callable[[], None] | None = None
    """Instead of a command: writes `done`."""

    def __post_init__(self) -> None:
        if bool(self.words) == (self.make is not None):
            raise ValueError(f"the step {self.name} must be either a command or a function")

    def reads(self, other: StudyStep) -> bool:
        """Whether it needs what another step makes: a command names it; a function may read all that came before."""
        folder = other.done.parent
        return self.make is not None or any(folder in (path, *path.parents) for path in map(Path, self.words))


@dataclass(frozen=True)
class StudyOptions:
    """What a study is made of. Where a source is empty, the miniature's is made."""

    out: Path = Path("runs/study")
    """Directory of all studies: they share base, data and SFT where these are equal."""
    recipe: str = "miniature"
    """Recipe of SFT and RL: miniature, or another size, such as 8b, 30b or 235b."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of training; the evaluation's questions stay the same."""
    checkpoint: str = ""
    """Base model; without one, the miniature's."""
    policy: str = ""
    """A trained checkpoint for `budget` and `distractors`, in place of the ones that would be trained."""
    teacher: str = ""
    """Aligned teacher of on-policy distillation; without one, the miniature's, or no distillation at other sizes."""
    vanilla_teacher: str = ""
    """Teacher that was not trained to search efficiently; without one, the miniature's base model."""
    demonstrations: str = ""
    """Demonstrations of SFT; without any, they are made for the miniature."""
    questions: str = ""
    """Candidates of RL; without any, they are made for the miniature."""
    eval_questions: str = ""
    """Questions of evaluation; without any, the miniature's held-out ones."""
    other_demonstrations: dict[str, str] = field(default_factory=dict)
    """Demonstrations made in another way from data of your own, as pairs of a variant (no-prs, no-curation, llm-crop,
    code-crop) and a file."""
    sft_questions: int = 800
    """Number of the miniature's questions that demonstrations are sought for."""
    rl_candidates: int = MINIATURE.samples
    """Number of the miniature's questions that RL may select from."""
    test_questions: int = 200
    """Number of the miniature's questions that evaluation asks."""
    steps: int = 24
    """Number of RL steps in the miniature, twice those of the quickstart: what references do shows over two epochs."""
    shuffles: int = 10
    """Number of orders in which distractors are shuffled."""
    sft_options: str = ""
    """Options added to each `hypereyes sft`, in one text: --sft-options="--settings.epochs 2"."""
    rl_options: str = ""
    """Options added to each `hypereyes rl`."""
    eval_options: str = ""
    """Options added to each `hypereyes eval`."""

    @property
    def miniature(self) -> bool:
        return self.recipe == "miniature"


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers under headings; None where there is nothing."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]


@dataclass(frozen=True)
class Point:
    """A mean with its 95 % interval at a place of the chart."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """A chart with one line a series; with `labels` the places are named instead of numbered."""

    title: str
    y_label: str
    series: tuple[tuple[str, tuple[Point, ...]], ...]
    x_label: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a study came to."""

    title: str
    table: Table
    charts: tuple[Chart, ...]
    sentences: tuple[str, ...]
    missing: tuple[str, ...] = ()
    """Variants that were not run, and why."""


@dataclass(frozen=True)
class Study:
    """A declared list of steps, in an order in which each finds what it needs, and their summary."""

    name: StudyName
    steps: tuple[StudyStep, ...]
    summary: Callable[[], Outcome]
    summarised: frozenset[Path] = frozenset()
    """What the summary reads beside the steps that no other step reads."""

    def open_steps(self) -> Sequence[StudyStep]:
        """The steps that are still to be done. Models whose evaluations are there may be gone: nobody needs them."""
        open_steps: list[StudyStep] = []
        later: list[StudyStep] = []
        for step in reversed(self.steps):
            is_last = not any(each.reads(step) for each in later)
            is_needed = is_last or step.done.parent in self.summarised or any(each.reads(step) for each in open_steps)
            if is_needed and not step.done.exists():
                open_steps.append(step)
            later.append(step)
        return open_steps[::-1]
