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
    efficient_low: float = 0.05
    redundant_high: float = -0.02
    redundant_low: float = -0.10
    wrong_penalty: float = -0.10
    band: float = 1.5
    format_failure: float = -0.5  # an accuracy at or below this is a reply without a readable answer
    score_without_reference: bool = True  # False: a group whose reference is unknown (negative) gets a tool reward of 0


@dataclass(frozen=True)
class RewardConfig:
    """TRACE, or for comparison the plain alpha * accuracy - beta * rounds, which knows no reference.

    To either comes R_fmt: the paper penalises a failed parse of the schema and states no number; the authors' published
    code ends the episode at such a call, so that it is worth -0.5 (`EpisodeConfig.broken_json_ends` does that). Here
    the model is told what was wrong and may go on, at a price.
    """

    kind: Literal["trace", "cost-weighted"] = "trace"
    alpha: float = 1.0  # cost-weighted: of accuracy (1 right, 0 wrong, -0.5 no readable answer) ...
    beta: float = 0.05  # ... and of each tool round
    malformed_call: float = -0.1  # R_fmt of each turn with a tool call that can't be read; 0 = none
    format_floor: float = -0.5  # R_fmt of a rollout in all is never below this, what a reply without an answer gets
    trace: TraceConfig = field(default_factory=TraceConfig)
    # module:object or file.py:object, with *weight behind if need be: functions of a group of rollouts
    # (`learner.reward`) whose weighted sum is the reward instead. References tighten all the same.
    functions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.malformed_call > 0 or self.format_floor > 0:
            raise ValueError("RewardConfig: malformed_call and format_floor are penalties and can't be positive")
