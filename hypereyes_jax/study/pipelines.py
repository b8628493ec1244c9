"""The commands of one variant, from data to evaluation; what two variants have in common is run once.

A directory is named after the command that fills it, so equal commands share one and a changed one gets another.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.env.config import Manner, Paradigm
from hypereyes_jax.errors import UserError
from hypereyes_jax.study.types import StudyOptions, StudyStep

Teacher = Literal["aligned", "vanilla", "none"]
Stage = Literal["base", "sft", "rl"]
_SELECTION = "rl_selection.json"
_FAST = ("--search.transport", "in-process", "--search.latency", "0", "--settings.keep-groups", "0")
_NO_DISTILLATION = ("--settings.opd-coef", "0")


@dataclass(frozen=True)
class Variant:
    """One way to train, and how it differs from the paper's."""

    name: str
    demonstrations: tuple[str, ...] = ()
    """Words of `hypereyes synth` that make its demonstrations."""
    rl: tuple[str, ...] = ()
    """Words of `hypereyes rl`."""
    teacher: Teacher = "aligned"
    paradigm: Paradigm = "ugs"
    serial: bool = False
    """One search a turn, in RL and in evaluation."""
    own_selection: bool = False
    """Whether its rollouts differ from the first variant's before RL, so that its questions are selected again."""

    @property
    def manner(self) -> Manner:
        if self.paradigm != "ugs":
            return self.paradigm
        return "serial" if self.serial else "parallel"


@dataclass
class Pipelines:
    """Gathers the steps that a study needs. Each method returns where its result will lie."""

    options: StudyOptions
    depths: tuple[int, ...] = ()
    """The miniature's questions need so many rounds; none = its usual kinds."""
    steps: list[StudyStep] = field(default_factory=list)

    def add(self, step: StudyStep) -> Path:
        """Adds a step unless it is there; returns what it makes."""
        if step.done not in {each.done for each in self.steps}:
            self.steps.append(step)
        return step.done

    def command(self, name: str, words: Sequence[str], done: str) -> Path:
        """Adds a command; returns its directory, whose file or folder `done` is there when it is whole."""
        label = re.sub(r"[^\w.]+", "-", name)
        folder = self.options.out / "runs" / f"{label}-{self._digest(words)}"
        self.add(StudyStep(name, folder / done, (*words, "--out", str(folder))))
        return folder

    def base(self) -> str:
        if self.options.checkpoint:
            return self.options.checkpoint
        if not self.options.miniature:
            raise UserError(f"the recipe {self.options.recipe} needs --checkpoint, the base model.")
        return _asset("base")

    def data(self, words: Sequence[str] = (), paradigm: Paradigm = "ugs") -> Path:
        """Folder with the miniature's demonstrations, candidates and questions of evaluation."""
        options = self.options
        sizes = ("--sft-questions", options.sft_questions, "--rl-candidates", options.rl_candidates)
        command = ("synth", *map(str, sizes), "--eval-questions", str(options.test_questions), *words)
        if self.depths:
            command += ("--depths", *map(str, self.depths))
        if paradigm != "ugs":
            command += ("--paradigm", paradigm)
        return self.command("data", command, "synth.json")

    def test_questions(self) -> Path:
        """The same for every variant and seed."""
        if self.options.eval_questions:
            return Path(self.options.eval_questions)
        self._needs_own("--eval-questions")
        return self.data() / "heldout.jsonl"

    def sft(self, variant: Variant, seed: int) -> Path:
        """The model after SFT."""
        words = ("sft", *self._recipe("sft"), "--checkpoint", self.base())
        words += ("--demonstrations", str(self._demonstrations(variant)), "--settings.seed", str(42 + seed))
        return self.command(f"sft seed {seed}", (*words, *shlex.split(self.options.sft_options)), "adapter") / "model"

    def rl(self, variant: Variant, seed: int, like: Variant | None = None) -> Path:
        """The run of RL.

        Args:
          like: a variant with the same SFT whose selection of questions is taken over, so that it is made once.
        """
        options = self.options
        questions = options.questions or str(self.data() / "rl_candidates.jsonl")
        if not options.questions:
            self._needs_own("--questions")
        words = ("rl", *self._recipe("rl"), "--checkpoint", str(self.sft(variant, seed)), "--questions", questions)
        if options.miniature:
            words += ("--settings.steps", str(options.steps), *_FAST)
        words += ("--settings.seed", str(seed), *self._teacher_words(variant), *variant.rl, *self.further_rl())
        words += ("--sizes.episode.serial",) if variant.serial else ()
        if like is not None and not variant.own_selection and "--select" not in variant.rl:
            words += ("--references", str(self.rl(like, seed) / _SELECTION))
        name = f"rl {variant.name} seed {seed}"
        return self.command(name, words, "model")

    def further_rl(self) -> tuple[str, ...]:
        """Words that were given for each `hypereyes rl`."""
        return tuple(shlex.split(self.options.rl_options))

    def evaluation(
        self, name: str, model: Path | str, manner: Manner = "parallel", more: Sequence[str] = (), seed: int = 1000
    ) -> Path:
        """Folder with the results of a model on the questions of evaluation; `more` may name others."""
        words = ["eval", str(model), "--manner", manner, "--seed", str(seed)]
        words += [] if self.options.miniature else ["--recipe", *self._recipe("rl")]
        words += [*shlex.split(self.options.eval_options), *more]
        if "--questions" not in more:
            words += ["--questions", str(self.test_questions())]
        return self.command(f"eval {name}", words, "benchmarks.tex")

    def stage(self, variant: Variant, stage: Stage, seed: int, like: Variant | None = None) -> Path:
        """Results of a variant at one of its stages."""
        if stage == "base":
            return self.evaluation("base", self.base(), variant.manner)
        model = self.sft(variant, seed) if stage == "sft" else self.rl(variant, seed, like) / "model"
        label = "" if stage == "sft" else f" {variant.name}"
        return self.evaluation(f"{stage}{label} seed {seed}", model, variant.manner)

    def unavailable(self, variant: Variant) -> str:
        """Why a variant can't be run with these options; "" if it can."""
        options = self.options
        made_otherwise = bool(variant.demonstrations) or variant.paradigm != "ugs"
        if options.demonstrations and made_otherwise and variant.name not in options.other_demonstrations:
            return f"{variant.name}: give its demonstrations, --other-demonstrations {variant.name} FILE"
        if not options.miniature and variant.teacher == "vanilla" and not options.vanilla_teacher:
            return f"{variant.name}: give --vanilla-teacher"
        return ""

    def _demonstrations(self, variant: Variant) -> Path:
        options = self.options
        if variant.name in options.other_demonstrations:
            return Path(options.other_demonstrations[variant.name])
        if options.demonstrations:
            return Path(options.demonstrations)
        self._needs_own("--demonstrations")
        return self.data(variant.demonstrations, variant.paradigm) / "demonstrations.jsonl"

    def _teacher_words(self, variant: Variant) -> tuple[str, ...]:
        options = self.options
        if variant.teacher == "none":
            return _NO_DISTILLATION
        if variant.teacher == "vanilla":
            return ("--teacher", options.vanilla_teacher or _asset("base"))
        teacher = options.teacher or (_asset("teacher") if options.miniature else "")
        return ("--teacher", teacher) if teacher else _NO_DISTILLATION

    def _recipe(self, stage: str) -> tuple[str, ...]:
        options = self.options
        if options.miniature:
            return ()
        name = f"hypereyes_{options.recipe}_{stage}"
        if name not in RECIPES:
            sizes = [recipe.split("_")[1] for recipe in RECIPES if recipe.endswith(f"_{stage}")]
            raise UserError(f"there is no recipe {options.recipe!r}. Known: miniature, {', '.join(sizes)}")
        return (name,)

    def _needs_own(self, option: str) -> None:
        if not self.options.miniature:
            raise UserError(
                f"the recipe {self.options.recipe} needs {option}: only the miniature's data are made here."
            )

    def _digest(self, words: Sequence[str]) -> str:
        """The digest of a command; paths below the study's directory count by names in it: it may be moved."""
        roots = (str(self.options.out), _asset(""))
        plain_words = [next((w.removeprefix(root) for root in roots if w.startswith(root)), w) for w in words]
        return hashlib.sha256(json.dumps(plain_words).encode()).hexdigest()[:8]


def _asset(name: str) -> str:
    return str(resources.files("hypereyes_jax.assets") / name)
