"""Standard streams as a command may find them: closed, a pipe whose reader leaves, or of an encoding with few signs."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


def prepare_streams() -> None:
    """Make printing harmless whatever the standard streams are. Call it once, before anything is opened or printed.

    - Closed ones (`>&-`, some daemons) are opened on nothing. Else the next file that is opened would get their number,
      and what libraries print would land in it.
    - What the encoding of the terminal can't say (LANG=C) is written as an escape.
    - A reader that leaves (`| head`) ends what is shown, and not a run of days.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    sys.stdout = _prepared(sys.stdout, 1)
    sys.stderr = _prepared(sys.stderr, 2)


def _prepared(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:
        stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (as long as the process)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _LenientStream(stream, number)  # type: ignore[return-value]


class _LenientStream:
    """A text stream that goes on as if written to when its reader has left."""

    def __init__(self, stream: TextIO, number: int):
        self._stream, self._number = stream, number

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._to_nothing()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._to_nothing()

    def _to_nothing(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._number)  # what is still in the buffer, and the interpreter's own flush, go there
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
