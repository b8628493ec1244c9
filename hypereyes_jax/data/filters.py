"""What is dropped after rejection sampling: successes that teach a bad habit.

The paper names five kinds (arXiv 2605.07177); it gives no thresholds, so ours are stated here. Each filter reads the
episode's own record and returns the name of the fault, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hypereyes_jax.env.types import EpisodeResult, StopReason

# Two narrow rounds in a row happen in honest work (a first look, a correction); three of one tool are a queue.
SERIAL_ROUNDS = 3


def format_violation(result: EpisodeResult) -> str | None:
    """A malformed call, a turn without a reason, or an end other than an answer."""
    if result.stop != StopReason.ANSWERED or result.answer is None:
        return "format"
    if any(turn.malformed or not turn.reason.strip() for turn in result.turns):
        return "format"
    return None


def zero_information_gain(result: EpisodeResult) -> str | None:
    """A round whose searches returned nothing that earlier rounds had not already shown."""
    seen: set[tuple[str, str]] = set()
    for turn in result.turns:
        if not turn.is_round:
            continue
        found = {(hit.title, hit.content) for call in turn.invocations for hit in call.hits}
        if not found - seen:
            return "zero-gain"
        seen |= found
    return None


def ungrounded(result: EpisodeResult) -> str | None:
    """The answer stands neither in the question nor in anything a search returned."""
    if result.answer is None or result.answer.strip().lower() in ("yes", "no"):
        return None
    read = [result.question.text]
    read += [f"{hit.title} {hit.content}" for turn in result.turns for call in turn.invocations for hit in call.hits]
    answer = re.sub(r"\W+", " ", result.answer.lower()).strip()
    return None if answer in re.sub(r"\W+", " ", " ".join(read).lower()) else "ungrounded"


def unimodal_shortcut(result: EpisodeResult) -> str | None:
    """A question about an image that was answered without searching any part of it."""
    looked = any(call.tool == "image_search" for turn in result.turns for call in turn.invocations)
    return "unimodal" if result.question.images and not looked else None


def serial_searching(result: EpisodeResult) -> str | None:
    """Single searches of one tool, queued over several rounds, that one wide call could have made."""
    run, last = 0, ""
    for turn in result.turns:
        tools = {call.tool for call in turn.invocations}
        narrow = len(turn.invocations) == 1
        tool = tools.pop() if narrow else ""
        run = run + 1 if narrow and tool == last else int(narrow)
        last = tool
        if run >= SERIAL_ROUNDS:
            return "serial"
    return None


FILTERS: tuple[Callable[[EpisodeResult], str | None], ...] = (
    format_violation,
    zero_information_gain,
    ungrounded,
    unimodal_shortcut,
    serial_searching,
)


def fault(result: EpisodeResult) -> str | None:
    """The first fault found, or None if the trajectory is fit for SFT."""
    return next((name for check in FILTERS if (name := check(result)) is not None), None)
