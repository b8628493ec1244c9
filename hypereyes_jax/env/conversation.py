"""A question within a conversation: what was said before stands in front of it, as text."""

from __future__ import annotations

from collections.abc import Sequence


def follow_up(earlier: Sequence[tuple[str, str]], now: str) -> str:
    """The text of a question that follows others.

    An episode has one question, so a conversation goes on as a new episode that is told of what came before.

    Args:
      earlier: (role, text) of the messages before, "user" or "assistant"; those without text are left out.
      now: the question.
    """
    before = [f"{role}: {text.strip()}" for role, text in earlier if text.strip()]
    if not before:
        return now
    return "Earlier in this conversation:\n" + "\n".join(before) + f"\n\nNow: {now}"
