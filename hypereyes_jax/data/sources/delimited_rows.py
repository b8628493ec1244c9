"""CSV, TSV and their like by row: an index of where each record begins and ends is all that is in memory."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

import numpy as np

from hypereyes_jax.data.sources.columns import columns_of, field_of, plain_name
from hypereyes_jax.data.sources.json_rows import StableFile, not_utf8
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.errors import UserError

DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons", "|": "CSV with bars"}
_BOM = "\ufeff"
_RULE = re.compile(r"\s*:?-{2,}:?\s*$")
_BLOCK = 1 << 20  # bytes read at a time


class DelimitedRows:
    """Rows of a file whose first line names its columns. Quotes may hold delimiters and line breaks (RFC 4180).

    An empty cell is a column that the row lacks.
    """

    unit = "line"

    def __init__(self, path: Path, max_row_bytes: int, delimiter: str, columns: Mapping[str, str]):
        """Raises UserError for a file that is not text in UTF-8, or a first line that names a column twice."""
        self.format = DELIMITERS[delimiter]
        self._file = StableFile(path)
        self._max = max_row_bytes
        self._delimiter = delimiter
        places: list[tuple[int, int, int]] = []
        self._names: list[str] = []
        for start, stop, line, record in self._records():
            if self._names:
                places.append((start, stop, line))
                continue
            if isinstance(record, BadRow):
                raise UserError(f"{path}, line {line}: {record.why}. It must name the columns.")
            self._names = [cell.strip() for cell in record]
        asked_for = columns_of(columns)
        # Two spellings of a known name are two columns of it, unless they were asked for as they are.
        known = [plain_name(name) if name not in asked_for and field_of(name) else name for name in self._names]
        twice = next((name for name, times in Counter(known).items() if name and times > 1), None)
        if twice is not None:
            raise UserError(f"{path} has two columns of the name {twice!r}. Rename one of them in its first line.")
        self._file.check()
        self._places = np.array(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._places)

    def number(self, index: int) -> int:
        return int(self._places[index, 2])

    def read(self, index: int) -> Row:
        start, stop, _ = self._places[index].tolist()
        if stop - start > self._max:
            raise self._too_large(stop - start)
        *_, record = next(self._records(start, stop))
        return self._row(record)

    def scan(self) -> Iterator[tuple[int, Row | BadRow]]:
        self._file.check()
        records = self._records()
        next(records, None)  # the names
        for index, (*_, record) in enumerate(records):
            try:
                yield index, self._row(record)
            except BadRow as error:
                yield index, error

    def close(self) -> None:
        self._file.close()

    def _row(self, record: list[str] | BadRow) -> Row:
        if isinstance(record, BadRow):
            raise record
        if any(cell.strip() for cell in record[len(self._names) :]):
            why = f"it has {len(record)} cells, where the first line names {len(self._names)} columns"
            raise BadRow("cells that no column takes", f"{why}: a cell that holds the delimiter needs quotes")
        if record[0].strip() == self._names[0] and [cell.strip() for cell in record] == self._names:
            raise BadRow("names of columns again", "it repeats the names of the columns, as where files were joined")
        if _RULE.match(next(filter(None, record), "")) and all(_RULE.match(cell) for cell in record if cell.strip()):
            raise BadRow("rule of a table", "it is the rule under the names of a table in Markdown")
        pairs = zip_longest(self._names, record[: len(self._names)], fillvalue="")
        return {name: cell if cell.strip() else None for name, cell in pairs if name}

    def _records(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, int, list[str] | BadRow]]:
        """(first byte, byte behind the last, line, cells) of each record that is not blank, in order."""
        # The limit is the module's and counts characters. It is only ever raised; the bytes are bounded by `_Lines`.
        csv.field_size_limit(max(csv.field_size_limit(), self._max))
        lines = _Lines(self._file, start, self._file.size if stop is None else stop, self._max)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            lines.begin()
            record: list[str] | BadRow
            try:
                record = next(reader)
            except StopIteration:
                return
            except BadRow as error:
                record = error
            except csv.Error as error:
                record = BadRow("broken quotes", f"its quotes or line breaks can't be understood ({error})")
            if record:
                yield lines.start, lines.at, lines.line, record

    def _too_large(self, size: int) -> BadRow:
        return BadRow("row too large", f"it has {size:,} bytes, where at most {self._max:,} are read as one row")


class _Lines:
    """The lines of a part of a file, as `csv.reader` asks for them, with where the record that it reads begins."""

    def __init__(self, file: StableFile, start: int, stop: int, most: int):
        self._file, self._stop, self._most = file, stop, most
        self._buffer, self._used = b"", 0
        self.start = self.at = start  # of the record; behind the last line that was given out
        self.line, self._next = 0, 1  # of the record's first line; of the line that comes next

    def begin(self) -> None:
        """The next line is the first of a record."""
        self.start, self.line = self.at, self._next

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at >= self._stop:
            raise StopIteration
        data = self._take()
        self._next += 1
        if self.at - self.start > self._most:
            size = self.at - self.start
            raise BadRow("row too large", f"it has {size:,} bytes, where at most {self._most:,} are read as one row")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(self._file.path, error) from None
        return text.removeprefix(_BOM) if self.at == len(data) else text

    def _take(self) -> bytes:
        """The next line. Of one that is too long only the end is kept."""
        parts: list[bytes] = []
        size = 0
        while True:
            end = self._buffer.find(b"\n", self._used) + 1
            piece = self._buffer[self._used : end or None]
            self._used += len(piece)
            self.at += len(piece)
            size += len(piece)
            parts = [*parts, piece] if size <= self._most else []
            if end or self.at >= self._stop:
                return b"".join(parts)
            self._buffer = self._file.read(self.at, min(self.at + _BLOCK, self._stop))
            self._used = 0


def delimiter_of(line: str, columns: Mapping[str, str]) -> str | None:
    """What delimits the columns that a first line names; None where it names none that a question could stand in."""
    asked_for = columns_of(columns)
    best, most = None, 1  # a table of one column has no answers
    for delimiter in DELIMITERS:
        try:
            names = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if len(names) > most and any(name in asked_for or field_of(name) in ("text", "answers") for name in names):
            best, most = delimiter, len(names)
    return best
