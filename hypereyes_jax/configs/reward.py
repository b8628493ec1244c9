"""What a rollout is paid, as settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class TraceConfig:
    """The constants of TRACE, in reward units; the defaults are those of the authors' published code.

    A correct rollout within the reference earns between `efficient_low` and `efficient_high`; a correct one outside it
    between `redundant_low` and `redundant_high`. A wrong answer whose rounds leave the band [ref, trunc(band * ref)]
    pays `wrong_penalty`.
    """

    efficient_high: float = 0.20
    """Largest tool reward of a correct rollout within the reference."""
    efficient_low: float = 0.05
    """Smallest tool reward of a correct rollout within the reference."""
    redundant_high: float = -0.02
    """Largest tool reward of a correct rollout beyond the reference."""
    redundant_low: float = -0.10
    """Smallest tool reward of a correct rollout beyond the reference."""
    wrong_penalty: float = -0.10
    """Tool reward of a wrong answer whose rounds leave the band."""
    band: float = 1.5
    """The band reaches from the reference to this many times it, rounded down."""
    format_failure: float = -0.5
    """An accuracy at or below this is a reply without a readable answer."""
    score_without_reference: bool = True
    """Whether a group whose reference is unknown (negative) gets a tool reward other than 0."""


@dataclass(frozen=True)
class RewardConfig:
    """TRACE, or for comparison the plain alpha * accuracy - beta * rounds, which knows no reference.

    To either comes R_fmt: the paper penalises a failed parse of the schema and states no number; the authors' published
    code ends the episode at such a call, so that it is worth -0.5 (`EpisodeConfig.broken_json_ends` does that). Here
    the model is told what was wrong and may go on, at a price.
    """

    kind: Literal["trace", "cost-weighted"] = "trace"
    """Which reward ranks rollouts: TRACE, or accuracy against rounds at fixed prices."""
    alpha: float = 1.0
    """Price of accuracy in the cost-weighted reward (1 right, 0 wrong, -0.5 without a readable answer)."""
    beta: float = 0.05
    """Price of each tool round in the cost-weighted reward."""
    malformed_call: float = -0.1
    """R_fmt of each turn with a tool call that can't be read; 0 takes nothing off."""
    format_floor: float = -0.5
    """R_fmt of a whole rollout is never below this, which is what a reply without an answer gets."""
    trace: TraceConfig = field(default_factory=TraceConfig)
    functions: tuple[str, ...] = ()
    """Functions of a group of rollouts (`learner.reward`) whose weighted sum is the reward instead: module:object or
    file.py:object, with *weight behind it if need be. References tighten all the same."""

    def __post_init__(self) -> None:
        if self.malformed_call > 0 or self.format_floor > 0:
            raise ValueError("RewardConfig: malformed_call and format_floor are penalties and can't be positive")
