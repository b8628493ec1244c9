"""ArrayRecord files by row: each record is a JSON object."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypereyes_jax.data.sources.json_rows import StableFile, parse_row
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.errors import UserError

SIGNATURE = b"\x83\xaf\x70\xd1\x0d\x88\x4a\x3f"  # of Riegeli, which ArrayRecord is made of
_TOGETHER = 64  # records read at a time in a scan


class RecordRows:
    """Rows of an ArrayRecord file, as `hypereyes data convert` writes them."""

    format, unit = "ArrayRecord", "record"

    def __init__(self, path: Path, max_row_bytes: int):
        """Raises UserError for a file that is truncated or broken."""
        self._file = StableFile(path)
        self._max = max_row_bytes
        self._reader: Any = None
        self._lock = threading.Lock()
        self._count = int(self._open().num_records())
        if not self._count:  # what the library says of a file whose end is missing, too
            self._file.close()
            raise UserError(f"{path} holds no record, or is cut short. Download or make the file again.")

    def __len__(self) -> int:
        return self._count

    def number(self, index: int) -> int:
        return index + 1

    def read(self, index: int) -> Row:
        self._file.check()
        with self._lock:
            (data,) = self._records([index])
        return self._row(data)

    def scan(self) -> Iterator[tuple[int, Row | BadRow]]:
        self._file.check()
        for start in range(0, self._count, _TOGETHER):
            indices = list(range(start, min(start + _TOGETHER, self._count)))
            with self._lock:
                records = self._records(indices)
            for index, data in zip(indices, records, strict=True):
                try:
                    yield index, self._row(data)
                except BadRow as error:
                    yield index, error

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_file": self._file, "_max": self._max, "_count": self._count}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_reader": None, "_lock": threading.Lock()}

    def _row(self, data: bytes) -> Row:
        if len(data) > self._max:
            why = f"it has {len(data):,} bytes, where at most {self._max:,} are read as one row"
            raise BadRow("row too large", why)
        return parse_row(data, self._file.path)

    def _records(self, indices: list[int]) -> list[bytes]:
        try:
            return self._open().read(indices)
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._broken(error) from error

    def _open(self) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        if self._reader is None:
            self._file.check_open()
            try:
                self._reader = ArrayRecordReader(str(self._file.path))
            except (RuntimeError, ValueError) as error:
                raise self._broken(error) from error
        return self._reader

    def _broken(self, error: Exception) -> UserError:
        return UserError(f"{self._file.path} is broken or cut short ({str(error)[:200]}). Make the file again.")
