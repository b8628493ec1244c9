"""The nouns of collection."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from hypereyes_jax.data.filters import FilterConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Part, Question
from hypereyes_jax.errors import SettingError


@dataclass(frozen=True)
class Spent:
    """Tokens that a model read and wrote."""

    read: int = 0
    written: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.read + other.read, self.written + other.written)


@dataclass(frozen=True)
class DirectAnswer:
    """What a model answers without tools; None = it gave no answer."""

    text: str | None
    spent: Spent = field(default_factory=Spent)


class PlayerError(Exception):
    """A model that gave no verdict: the attempt tells nothing of it, and is made again another time.

    spent: what it took all the same, which is paid for.
    """

    def __init__(self, message: str, spent: Spent = Spent()):
        super().__init__(message)
        self.spent = spent


class Player(Protocol):
    """A model that can be asked, wherever it runs. Both methods raise PlayerError, and FatalSearchError."""

    @property
    def name(self) -> str:
        """The name of the model, for the record."""
        ...

    async def play(self, episode: Episode, seed: int) -> Spent:
        """Plays an episode to its end."""
        ...

    async def answer(self, question: Question, seed: int) -> DirectAnswer:
        """Answers without tools."""
        ...


class CollectionStage(StrEnum):
    """What an attempt is for."""

    NECESSITY = "necessity"  # answered without tools: the question needs no search
    DIFFICULTY = "difficulty"  # solved in one pass by the filter's model: too easy
    SAMPLING = "sampling"  # progressive rejection sampling
    SELECTION = "selection"  # tries for RL


@dataclass(frozen=True)
class CollectConfig:
    """What is tried, and how often. The paper states the stages, not these numbers (arXiv 2605.07177)."""

    necessity: int = 1
    """Number of tries without tools; a question that one of them answers is dropped. 0 does not ask."""
    difficulty: int = 0
    """Number of tries of a single pass; a question that one of them solves is dropped. 0 does not ask. The paper asks
    its largest open model; the sampling model itself would drop what it is about to learn."""
    budgets: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Numbers of rounds allowed, ascending; the first success is kept. Without any, nothing is sampled."""
    trials: int = 1
    """Number of tries at each budget."""
    selection: int = 0
    """Number of tries for RL: a question that fails at first and is solved later is kept, with its reference. The
    paper's number is 5; 0 selects none."""
    in_flight: int = 64
    """Number of attempts that are under way at a time, over all stages."""
    most_dollars: float | None = None
    """Dollars after which no further attempt begins, for tokens (of all runs) and searches (of this one); none sets no
    limit."""
    failures: int = 20
    """Number of consecutive attempts that could not be made, after which the run ends with the last error."""
    seed: int = 0
    """Seed of sampling; each attempt has a number of its own."""
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    """The rules of episodes. Demonstrations carry its system prompt, whatever budget they were found under."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """Thresholds that the quality filters use."""

    def __post_init__(self) -> None:
        if list(self.budgets) != sorted(set(self.budgets)) or any(budget < 1 for budget in self.budgets):
            raise SettingError(f"budgets must ascend from at least 1, got {self.budgets}")
        for name in ("necessity", "difficulty", "selection"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name} must be at least 0")
        if self.selection == 1:
            raise SettingError(
                "selection must be at least 2, or 0: a question is kept that fails at first and is solved later"
            )
        for name in ("trials", "in_flight", "failures"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1")


@dataclass(frozen=True)
class Attempt:
    """What is kept of one attempt that told something."""

    question: str  # key of the question, by content
    stage: CollectionStage
    number: int  # among the question's attempts of this stage
    correct: bool
    rounds: int = 0
    invocations: int = 0
    fault: str = ""  # which quality filter drops it; of successes only
    read: int = 0
    written: int = 0
    seconds: float = 0.0
    conversation: str = ""  # sha256 of its line in conversations.jsonl; of successes of the sampling only
    run: str = ""  # id of the run that made it


class CapturedEpisode(Episode):
    """Keeps the messages that the model was shown, as a demonstration needs them."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.shown: list[tuple[Part, ...]] = [self.prompt()]

    async def step(self, text: str, truncated: bool = False) -> tuple[Part, ...] | None:
        parts = await super().step(text, truncated)
        if parts is not None:
            self.shown.append(parts)
        return parts
