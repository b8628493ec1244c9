"""What a training is given: a run, its questions, and the services that it asks; `train.method` has the method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypereyes_jax import miniature
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.types import Question
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.models.lora import Lora
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.settings import SelectionRule, TeacherServerConfig


class OwnBase:
    """A teacher that is the frozen weights beside the policy's adapters, which are held once."""


TeacherSource = str | Path | TeacherServerConfig | OwnBase  # a checkpoint, or a server that scores


@dataclass(frozen=True)
class TrainingRun:
    """One training on its way: where it is written, who sees its progress, which processes make it.

    `directory` also knows the run's trackers and whether it was asked to stop.
    """

    directory: RunDirectory
    stages: Stages
    processes: Processes = field(default_factory=Processes)
    profile_step: int | None = None  # this step's profile is written to the directory
    resume_step: int | None = None  # go back to the checkpoint of this step; None = go on from the newest
    # (place, weights, adapters to merge) -> writes a model there; None = none is written before the end
    write_model: Callable[[Path, Params, Lora | None], None] | None = None


@dataclass(frozen=True)
class Validation:
    """Other questions that the policy answers while it trains."""

    questions: Sequence[Question]
    every: int  # steps


@dataclass(frozen=True)
class RlQuestions:
    """The questions of an RL run before any is selected."""

    candidates: Sequence[Question]
    rule: SelectionRule = field(default_factory=SelectionRule)
    validation: Validation | None = None
    sources: tuple[str, ...] = ()  # names of what they are read from, where they have one


@dataclass(frozen=True)
class RlServices:
    """Settings of what an RL run asks outside of the policy."""

    search: SearchConfig = miniature.SEARCH
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    teacher: TeacherSource | None = None  # None = no distillation


@dataclass(frozen=True)
class SelectedQuestions:
    """The questions that an RL run trains on."""

    questions: Sequence[Question]
    references: dict[str, tuple[int, int]]  # initial (rounds, invocations) by question id
    validation: Validation | None = None
