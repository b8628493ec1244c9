"""The settings of the reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hypereyes_jax.configs.trace import NO_ANSWER, TraceConfig
from hypereyes_jax.errors import SettingError, UserError

# What a rollout can spend, beside the invocations of each tool, which go by the tool's name.
RESOURCES = ("rounds", "searches", "kilotokens_read", "kilotokens_written", "seconds")


@dataclass(frozen=True)
class OverlongConfig:
    """A penalty on rollouts in which the model writes nearly too much (DAPO's soft overlong punishment); off at 0."""

    limit: int = 0
    """Number of tokens that the model writes in a rollout at which the whole penalty is due; 0 sets no penalty."""
    buffer: int = 512
    """Number of tokens before the limit over which the penalty grows from nothing, linearly."""
    scale: float = 1.0
    """The whole penalty, in reward units."""

    def __post_init__(self) -> None:
        if self.limit < 0 or self.buffer <= 0 or not 0 <= self.scale < math.inf:
            raise SettingError("OverlongConfig: limit and scale can't be negative, and buffer must be positive")


@dataclass(frozen=True)
class BudgetConfig:
    """A budget for what rollouts spend on average; without targets there is none.

    Each resource with a target has a price, which is taken from the reward for each unit that a rollout spends. Once a
    step it is set to the sum of two parts: one that grows with each step above the target and shrinks with each below
    it, and one in proportion to the present distance from it. The first alone overshoots, since a policy takes steps to
    follow a price. Use it with --reward.advantage group-centred: divided by a group's spread, any price outweighs
    accuracy in groups that are all right or all wrong.
    """

    targets: tuple[str, ...] = ()
    """Mean spending a rollout, as NAME=NUMBER: rounds, searches (all of them), kilotokens_read, kilotokens_written,
    seconds, or the name of a tool, for its invocations."""
    rate: float = 0.01
    """Amount in reward units by which the first part of a price grows in a step when spending is twice its target."""
    gain: float = 0.1
    """Second part of a price in reward units when spending is twice its target; 0 leaves it out."""
    smoothing: float = 0.8
    """Weight of earlier steps in the spending that the second part looks at; 0 looks at the last step alone, whose
    questions may need more searches than others."""
    highest: float = 1.0
    """Upper bound of a price in reward units, so that no resource outweighs a right answer for ever."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or not 0 < self.highest < math.inf:
            raise SettingError("BudgetConfig: rate and highest must be positive")
        if not 0 <= self.gain < math.inf or not 0 <= self.smoothing < 1:
            raise SettingError("BudgetConfig: gain must be 0 or more, and smoothing at least 0 and below 1")
        self.target()

    def target(self) -> dict[str, float]:
        """Mean spending by resource. Raises UserError for what is not a positive number."""
        return read_amounts(self.targets, "target", least=1e-9)


@dataclass(frozen=True)
class RewardConfig:
    """TRACE, or for comparison the plain alpha * effectiveness - beta * cost, which knows no reference.

    To either comes R_fmt: the paper penalises a failed parse of the schema and states no number; the authors' published
    code ends the episode at such a call, so that it is worth -0.5 (`EpisodeConfig.broken_json_ends` does that). Here
    the model is told what was wrong and may go on, at a price.
    """

    kind: Literal["trace", "cost-weighted"] = "trace"
    """Which reward ranks rollouts: TRACE, or accuracy against rounds at fixed prices."""
    alpha: float = 1.0
    """Weight of the accuracy in the cost-weighted reward (1 right, 0 wrong, -0.5 without a readable answer), or of what
    the --reward.functions return."""
    beta: float = 0.05
    """Weight of the cost in the cost-weighted reward: of the number of rounds, or of the sum that --reward.prices
    make."""
    prices: tuple[str, ...] = ()
    """Price list of the cost-weighted reward, as NAME=PRICE: rounds, searches (all of them), kilotokens_read,
    kilotokens_written, seconds, or the name of a tool, for its invocations. Without one, each round costs 1."""
    malformed_call: float = -0.1
    """R_fmt of each turn with a tool call that can't be read; 0 deducts nothing."""
    format_floor: float = NO_ANSWER
    """R_fmt of a whole rollout is never below this, which is what a reply without an answer gets."""
    trace: TraceConfig = field(default_factory=TraceConfig)
    functions: tuple[str, ...] = ()
    """Functions of a group of rollouts (`learner.reward`) whose weighted sum replaces the reward: module:object or
    file.py:object, with *weight behind it if needed. In a cost-weighted reward they replace the accuracy. References
    tighten all the same."""
    advantage: str = "group-relative"
    """How the rewards of a group become advantages: group-relative (GRPO's, the paper's), group-centred (not divided by
    the standard deviation, Dr. GRPO's), or module:object, a function of rewards [G] and valid [G]."""
    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    """A penalty on length that is added to whatever the reward is."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """A budget whose prices are taken from whatever the reward is."""

    def __post_init__(self) -> None:
        if self.malformed_call > 0 or self.format_floor > 0:
            raise SettingError("RewardConfig: malformed_call and format_floor are penalties and can't be positive")
        self.price_list()

    def price_list(self) -> dict[str, float]:
        """Prices by resource. Raises UserError for what is not a number from 0 on."""
        return read_amounts(self.prices, "price", least=0.0)


def read_amounts(pairs: Sequence[str], what: str, least: float) -> dict[str, float]:
    """NAME=NUMBER pairs as a dict.

    Args:
      what: what the numbers are, in errors.
      least: the smallest one allowed.

    Raises:
      UserError: a pair is none, a name stands twice, or a number is too small or not finite.
    """
    amounts: dict[str, float] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not name or not equals or not least <= number < math.inf or name in amounts:
            raise UserError(f"{pair!r} is not a {what}: give NAME=NUMBER, each name once, of at least {least:g}")
        amounts[name] = number
    return amounts


def check_resources(amounts: Mapping[str, float], tools: Sequence[str], what: str) -> None:
    """Raises UserError for a resource that no rollout can spend, which would be ignored.

    Args:
      tools: names of the tools that the model may call, searches included.
    """
    names = (*RESOURCES, *tools)
    for name in amounts:
        if name not in names:
            raise UserError(f"the {what} of {name!r} is for nothing that a rollout spends. Known: {', '.join(names)}")
