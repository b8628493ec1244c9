"""What a curation file says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from hypereyes_jax.configs.numbers import check_numbers
from hypereyes_jax.configs.yaml_text import YamlLoader
from hypereyes_jax.data.collection.types import CollectConfig
from hypereyes_jax.data.filters import FilterConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_file
from hypereyes_jax.runs.typed_json import ShapeError, from_json

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Pool:
    """Questions of one origin."""

    name: str
    """Name that the ids of its questions begin with, and that the funnel shows."""
    source: str
    """A file, folder, glob, hub id, URL or module:object; paths are relative to where the command runs."""
    columns: dict[str, str] = field(default_factory=dict)
    """Fields that stand in columns of other names: {text: q, answers: gt}."""
    most: int | None = None
    """Number of questions to take, spread evenly; none takes all."""


@dataclass(frozen=True)
class ModelConfig:
    """A model: behind an endpoint, or a checkpoint that is run here."""

    url: str = ""
    """Base of an OpenAI-compatible endpoint."""
    name: str = ""
    """Name of the model at that endpoint."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    checkpoint: str = ""
    """Directory of a checkpoint that is run instead of an endpoint."""
    temperature: float = 0.8
    """Sampling temperature of episodes; direct answers are greedy."""
    max_tokens: int = 1524
    """Number of tokens that one turn may have."""
    prompt_price: float = 0.0
    """Dollars that a million tokens read cost."""
    completion_price: float = 0.0
    """Dollars that a million tokens written cost."""

    def __post_init__(self) -> None:
        if bool(self.checkpoint) == bool(self.url) or bool(self.url) != bool(self.name):
            raise ShapeError("a model is an endpoint with url and name, or a checkpoint")
        if self.max_tokens < 1:
            raise ShapeError("max_tokens of a model must be at least 1")


@dataclass(frozen=True)
class CurationConfig:
    """A curation file: where questions come from, who is asked, and what is kept."""

    pools: tuple[Pool, ...]
    sampler: ModelConfig
    """The strong model whose shortest successes become demonstrations."""
    filter_model: ModelConfig | None = None
    """The model of the filters of necessity and difficulty; none = the sampler."""
    policy: ModelConfig | None = None
    """The model after SFT, whose tries select the questions of RL; none = that stage waits."""
    miniature: bool = False
    """Use the miniature's rules of episodes and filters."""
    necessity: int = 1
    """Tries without tools; a question that one of them answers falls out."""
    difficulty: int = 1
    """Tries of a single pass; a question that one of them solves falls out."""
    budgets: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Rounds allowed in progressive rejection sampling, ascending."""
    trials: int = 1
    """Tries at each budget."""
    filters: FilterConfig | None = None
    """Thresholds of the five quality filters; none = the defaults."""
    tries: int = 5
    """Tries of the policy for each question: those that fail at first and succeed later are kept for RL."""
    search: SearchConfig = field(default_factory=SearchConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    in_flight: int = 64
    """Attempts under way at a time."""
    most_dollars: float = 1e9
    """No attempt is begun once tokens and searches of a stage have cost so much."""
    seed: int = 0
    layout: Literal["own", "authors"] = "own"
    """What is written beside our JSON lines: "authors" adds the authors' RL columns and SFT files."""

    def __post_init__(self) -> None:
        names = [pool.name for pool in self.pools]
        if not names or len(set(names)) != len(names) or not all(name and "/" not in name for name in names):
            raise ShapeError("pools must be a list of at least one, each with a name of its own without /")
        if self.tries < 2:
            raise ShapeError("tries must be at least 2: a question is kept that fails at first and is solved later")
        stages: tuple[Literal["sft", "rl"], ...] = ("sft", "rl")
        for stage in stages:
            self.collect_config(stage, EpisodeConfig(), FilterConfig())  # refuses numbers that can't be meant

    def collect_config(
        self, stage: Literal["sft", "rl"], episode: EpisodeConfig, filters: FilterConfig
    ) -> CollectConfig:
        """The attempts that a stage makes."""
        sft = stage == "sft"
        return CollectConfig(
            necessity=self.necessity if sft else 0,
            difficulty=self.difficulty if sft else 0,
            budgets=self.budgets if sft else (),
            trials=self.trials,
            selection=0 if sft else self.tries,
            in_flight=self.in_flight,
            most_dollars=self.most_dollars,
            seed=self.seed,
            episode=episode,
            filters=filters,
        )


def read_curation(path: Path) -> CurationConfig:
    """A curation file, in YAML. Raises UserError for what it can't be, naming the place."""
    try:
        value: Any = yaml.load(read_file(path, _MOST_BYTES).decode("utf-8"), YamlLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError for a date of a thirteenth month, too
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())[:200]}).") from None
    try:
        config = from_json(CurationConfig, value)
        check_numbers(config)
        return config
    except ValueError as error:  # ShapeError is one, and so is what a dataclass refuses
        raise UserError(
            f"{path}: {str(error).removesuffix('.')}. See docs/collect.md for the fields of a curation file."
        ) from None
