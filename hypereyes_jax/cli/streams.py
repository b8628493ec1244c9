"""Standard streams as a command may find them: closed, a pipe whose reader leaves, or of an encoding with few signs."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

from hypereyes_jax.files import CURES


def prepare_streams() -> None:
    """Make printing harmless whatever the standard streams are. Call it once, before anything is opened or printed.

    - Closed ones (`>&-`, some daemons) are opened on nothing. Else the next file that is opened would get their number,
      and what libraries print would land in it.
    - What the encoding of the terminal can't say (LANG=C) is written as an escape.
    - A reader that leaves (`| head`), or a full disk that a log goes to, ends what is shown, and not a run of days.
      What was lost on a disk is told at the end (`printing_failure`).
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


def printing_failure() -> str | None:
    """Why not all that was printed could be written; None where it was, or where its reader did not want it."""
    sys.stdout.flush()
    error = sys.stdout.error if isinstance(sys.stdout, _LenientStream) else None
    return None if error is None else CURES.get(error.errno or 0) or f"{os.strerror(error.errno or 0)}."


class _LenientStream:
    """A text stream that goes on as if written to when its reader has left or its disk is full.

    Attributes:
      error: why something was lost; None where nothing was, or where the reader has left.
    """

    def __init__(self, stream: TextIO, number: int):
        self._stream, self._number = stream, number
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._to_nothing(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._to_nothing(error)

    def _to_nothing(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.error = error
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._number)  # what is still in the buffer, and the interpreter's own flush, go there
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
