"""The constants of TRACE. All that `hypereyes_jax.rl` needs of other rooms, so it imports nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

# The accuracy of a rollout without a readable answer, of the authors' published code; 1 is right and 0 is wrong.
NO_ANSWER = -0.5


@dataclass(frozen=True)
class TraceConfig:
    """The constants of TRACE, in reward units; the defaults are those of the authors' published code.

    A correct rollout within the reference earns between `efficient_low` and `efficient_high`; a correct one outside it
    between `redundant_low` and `redundant_high`. A wrong answer whose rounds leave the band [ref, trunc(band * ref)]
    earns `wrong_penalty`.
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
    format_failure: float = NO_ANSWER
    """An accuracy at or below this is a reply without a readable answer."""
    score_without_reference: bool = True
    """Whether a group whose reference is unknown (negative) gets a tool reward other than 0."""
