"""Text for a terminal: what a file, a model or a service wrote must not steer it."""

from __future__ import annotations


def visible(text: str) -> str:
    """The text with control characters and halves of surrogate pairs as escapes; newlines and tabs stay.

    Terminals obey escape sequences, bidirectional controls and bare returns in whatever is printed.
    """
    return "".join(
        char if char in "\n\t" or char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
