"""Text for a terminal: what a file, a model or a service wrote must not steer it.

All that commands show goes through here: `Terminal` escapes what it renders, and `escaping_stdout` what is printed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


def visible(text: str) -> str:
    """The text with control characters and halves of surrogate pairs as escapes; newlines, tabs and spaces stay.

    Terminals obey escape sequences, bidirectional controls and bare returns in whatever is printed.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_harmless(char) else char.encode("unicode_escape").decode() for char in text)


def _is_harmless(char: str) -> bool:
    return char in "\n\t" or char.isprintable() or unicodedata.category(char) == "Zs"  # 0xA0 and the like


def color_system() -> Literal["auto"] | None:
    """What rich is to style text by: None, which writes no escape sequence for it, where NO_COLOR asks for that.

    By itself rich takes NO_COLOR for colours only, and keeps bold and dim text (https://no-color.org).
    """
    return None if os.environ.get("NO_COLOR") else "auto"


class Terminal(Console):
    """A console of rich whose text is never markup and never steers the terminal; its styles are ours."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False, highlight: bool = False):
        super().__init__(
            stderr=stderr, quiet=quiet, highlight=highlight, markup=False, emoji=False, color_system=color_system()
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


@contextlib.contextmanager
def escaping_stdout() -> Iterator[None]:
    """What is printed within the block can't steer the terminal."""
    plain = sys.stdout
    sys.stdout = _Escaping(plain)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout = plain


class _Escaping:
    """A text stream that writes what is visible."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.rich_proxied_file = stream  # where rich, which has sequences of its own to write, finds the terminal

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
