"""JSON lines and JSON arrays by row: an index of byte offsets is all that is in memory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hypereyes_jax.data.sources.types import KEY_TWICE, BadRow, Row
from hypereyes_jax.env.web.untrusted import RepeatedKey, unique_keys
from hypereyes_jax.errors import UserError

_BOM = b"\xef\xbb\xbf"
_BLOCK = 4 << 20  # bytes looked through at a time
_BLANK = 64  # a longer line is taken to hold something
_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)
_QUOTE, _BACKSLASH = 34, 92


class StableFile:
    """Ranges of a file that must not change. Opened anew in a process that this was sent to."""

    def __init__(self, path: Path):
        self.path = path
        self._fd: int | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._stamp = self._stamp_now()
        self.size = self._stamp[0]

    def read(self, start: int, stop: int) -> bytes:
        """Raises UserError if the file changed since it was opened."""
        self.check()
        data = os.pread(self._descriptor(), stop - start, start)
        if len(data) != stop - start:
            raise self._changed()
        return data

    def check(self) -> None:
        """Raises UserError if the file changed since it was opened."""
        if self._stamp_now() != self._stamp:
            raise self._changed()

    def check_open(self) -> None:
        """Raises ValueError after `close`."""
        if self._closed:
            raise ValueError(f"{self.path} is read after its source was closed")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_stamp": self._stamp, "size": self.size, "_closed": self._closed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_fd": None, "_lock": threading.Lock()}

    def _descriptor(self) -> int:
        with self._lock:
            self.check_open()
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            return self._fd

    def _stamp_now(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            raise UserError(
                f"there is no {self.path}. Give a file that exists, or make one with `hypereyes synth`."
            ) from None
        except OSError as error:
            raise UserError(f"can't read {self.path} ({error.strerror}). Give a file that you may read.") from None
        return status.st_size, status.st_mtime_ns, status.st_ino

    def _changed(self) -> UserError:
        return UserError(f"{self.path} changed while it was read. Leave it alone during a run, and start again.")


class JsonRows:
    """Rows of a text in JSON, by where each begins and ends."""

    def __init__(self, path: Path, max_row_bytes: int, *, array: bool, elements: Sequence[Span] | None = None):
        """Rows are the lines of a file, the elements of its array, or those that lie between the given bytes.

        Raises UserError for a file that is not text in UTF-8, or an array that is not whole.
        """
        self.format = "JSON array" if array else "JSON lines"
        self.unit = "row" if array else "line"
        self._file = StableFile(path)
        self._max = max_row_bytes
        if elements is not None:
            spans = _numbered(elements)
        else:
            spans = _array_spans(self._file) if array else _line_spans(self._file)
        self._file.check()
        self._start, self._stop, self._number = spans

    def __len__(self) -> int:
        return len(self._start)

    def number(self, index: int) -> int:
        return int(self._number[index])

    def read(self, index: int) -> Row:
        start, stop = int(self._start[index]), int(self._stop[index])
        if stop - start > self._max:
            raise self._too_large(index)
        return parse_row(self._file.read(start, stop), self._file.path)

    def scan(self) -> Iterator[tuple[int, Row | BadRow]]:
        index = 0
        while index < len(self):
            # Many short rows are read together: the file is asked for a block, not for each.
            begin = int(self._start[index])
            end = max(index + 1, int(np.searchsorted(self._stop, begin + _BLOCK, side="right")))
            if int(self._stop[index]) - begin > self._max:
                yield index, self._too_large(index)
                index += 1
                continue
            block = self._file.read(begin, int(self._stop[end - 1]))
            starts, stops = ((spans[index:end] - begin).tolist() for spans in (self._start, self._stop))
            for number, start, stop in zip(range(index, end), starts, stops, strict=True):
                if stop - start > self._max:
                    yield number, self._too_large(number)
                    continue
                try:
                    yield number, parse_row(block[start:stop], self._file.path)
                except BadRow as error:
                    yield number, error
            index = end

    def _too_large(self, index: int) -> BadRow:
        size = int(self._stop[index] - self._start[index])
        return BadRow("row too large", f"it has {size:,} bytes, where at most {self._max:,} are read as one row")

    def close(self) -> None:
        self._file.close()


def parse_row(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadRow for anything else, UserError for bytes that are not UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    try:
        row = _parsed(text)
        # Half of a surrogate pair is JSON, but no text that can be encoded again.
        if "\\u" in text and ("\\ud" in text or "\\uD" in text):
            json.dumps(row, ensure_ascii=False).encode()
    except RepeatedKey as error:
        raise BadRow(KEY_TWICE, str(error)) from None
    except (ValueError, RecursionError) as error:
        raise BadRow("no JSON", _why_not_json(text, error)) from None
    if not isinstance(row, dict):
        raise BadRow("no JSON object", "it must be a JSON object")
    return row


def _parsed(text: str) -> Any:
    """What `JSONDecoder.decode` returns and raises, sooner: it looks for white space in front, and behind."""
    try:
        value, end = _DECODER.raw_decode(text)
    except ValueError:
        return _DECODER.decode(text)
    return value if end == len(text) or not text[end:].strip(" \t\r\n") else _DECODER.decode(text)


def _why_not_json(text: str, error: Exception) -> str:
    """A clause on a text that is not JSON, which names the cause where it is one of the usual ones."""
    try:
        _, end = _DECODER.raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return f"it is not JSON ({error})"
    rest = text.lstrip()[end:].strip(" \t\r\n")
    if rest == ",":
        return "a comma follows its JSON, as in an array without its brackets: remove it"
    if "\r" in text.strip():
        return "its rows end with carriage returns alone: turn them into line feeds (tr '\\r' '\\n' < FILE > NEW)"
    return f"it is not JSON ({error})"


def not_utf8(path: Path | str, error: UnicodeDecodeError) -> UserError:
    """What to say of a file whose bytes are not text in UTF-8."""
    return UserError(
        f"{path} is not a text file in UTF-8 ({error}). Convert it (iconv -f latin1 -t utf-8, or whichever encoding "
        "it has), or make it again."
    )


Span = tuple[int, int]  # first byte, and the one behind the last
Spans = tuple[np.ndarray, np.ndarray, np.ndarray]  # int64: first byte, byte behind the last, number


def _line_spans(file: StableFile) -> Spans:
    """Lines that are not blank. They end at line feeds only: JSON may hold Unicode's other line separators."""
    starts, stops, numbers = [], [], []
    begin = at = len(_BOM) if file.read(0, min(len(_BOM), file.size)) == _BOM else 0
    line = 0
    while at < file.size:
        block = file.read(at, min(at + _BLOCK, file.size))
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + at
        if at + len(block) == file.size and not block.endswith(b"\n"):
            ends = np.append(ends, file.size)
        if len(ends):
            first = np.concatenate([[begin], ends[:-1] + 1])
            # Only a short line may be blank; of the first of a block, the beginning may lie before it.
            keep = ends - first > _BLANK
            short = np.flatnonzero(~keep)
            keep[short] = [bool(_between(file, block, at, int(first[i]), int(ends[i])).strip()) for i in short]
            starts.append(first[keep])
            stops.append(ends[keep])
            numbers.append((np.arange(line + 1, line + 1 + len(ends)))[keep])
            begin, line = int(ends[-1]) + 1, line + len(ends)
        at += len(block)
    empty = np.zeros(0, np.int64)
    first, last, number = (np.concatenate([empty, *part]) for part in (starts, stops, numbers))
    return first, last, number


def _between(file: StableFile, block: bytes, at: int, start: int, stop: int) -> bytes:
    return block[start - at : stop - at] if start >= at else file.read(start, stop)


def _array_spans(file: StableFile) -> Spans:
    """Where the elements of an array begin and end: brackets are counted outside of strings.

    Raises UserError for an array that does not end, or is followed by something.
    """
    spans: list[Span] = []
    depth, begin, escape = 0, 0, -1
    inside, closed, end = False, False, 0
    for at, byte in marks(file):
        if inside:
            if at == escape:
                continue
            if byte == _BACKSLASH:  # what follows it has no meaning of its own
                escape = at + 1
            elif byte == _QUOTE:
                inside = False
        elif closed:
            break
        elif byte == _QUOTE:
            inside = True
        elif byte in b"{[":
            depth += 1
            begin = at + 1 if depth == 1 else begin
        elif byte in b"}]":
            depth -= 1
            closed, end = depth == 0, at + 1
            if closed and (spans or file.read(begin, min(at, begin + _BLOCK)).strip()):
                spans.append((begin, at))
        elif depth == 1:  # a comma
            spans.append((begin, at))
            begin = at + 1
    if not closed:
        raise UserError(f"{file.path} is cut short: its JSON array does not end. Download or make the file again.")
    if any(file.read(at, min(at + _BLOCK, file.size)).strip() for at in range(end, file.size, _BLOCK)):
        raise UserError(f"{file.path}: something follows its JSON array. Give one array, or JSON lines.")
    return _numbered(spans)


def _numbered(spans: Sequence[Span]) -> Spans:
    pairs = np.array(spans, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.arange(1, len(pairs) + 1, dtype=np.int64)


def marks(file: StableFile, start: int = 0) -> Iterator[tuple[int, int]]:
    """Offset and value of the bytes from `start` on that tell JSON's structure; in UTF-8 no other letter has them."""
    table = np.zeros(256, bool)
    table[list(b'"\\{}[],')] = True
    for at in range(start, file.size, _BLOCK):
        block = file.read(at, min(at + _BLOCK, file.size))
        for place in np.flatnonzero(table[np.frombuffer(block, np.uint8)]).tolist():
            yield at + place, block[place]
