"""Parquet and Arrow files by row: one row group or record batch at a time is in memory, and only what is asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hypereyes_jax.data.sources.cache import cache_folder
from hypereyes_jax.data.sources.json_rows import StableFile
from hypereyes_jax.data.sources.media import UNREAD
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import draft_of, writing

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_BYTES = 48 << 20  # decoded; a larger row group makes every row dear, so the file is rewritten once
_GROUPS = 2  # kept decoded
_SCAN_ROWS = 256
COPIED_ROWS = 16  # a row group of the copy, see `regrouped`


class ParquetRows:
    """Rows of a parquet file. Keeps the last row groups decoded, since neighbours are often read together."""

    format, unit = "parquet", "row"

    def __init__(self, path: Path, max_row_bytes: int, original: Path | None = None):
        """`original` is the file that this one is a copy of, and that must not change either.

        Raises UserError for a file that is truncated or broken.
        """
        self._file = StableFile(path)
        self._original = StableFile(original) if original is not None else self._file
        self._max = max_row_bytes
        self._reader: Any = None
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()
        with reading(path):
            meta = self._open().metadata
            counts = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            schema = self._open().schema_arrow
        _refuse_twins(path, schema.names)
        self._classes = class_names(schema)
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @property
    def largest_group(self) -> int:
        """Bytes of the largest row group once decoded."""
        meta = self._open().metadata
        return max((meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)), default=0)

    def __len__(self) -> int:
        return int(self._first[-1])

    def number(self, index: int) -> int:
        return index + 1

    def read(self, index: int) -> Row:
        group = int(np.searchsorted(self._first, index, side="right")) - 1
        self._original.check()
        with self._lock:
            table = self._groups.get(group)
            if table is None:
                with reading(self._file.path):
                    table = self._open().read_row_group(group)
                self._groups[group] = table
                while len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
        return with_names(one_row(table, index - int(self._first[group]), self._max), self._classes)

    def scan(self) -> Iterator[tuple[int, Row | BadRow]]:
        self._original.check()
        index = 0
        with reading(self._file.path):
            reader = self._open()
            schema = reader.schema_arrow
            unread = bytes_paths(schema)
            columns = [leaf for field in schema for leaf in _leaves(field.type, field.name)]
            for batch in reader.iter_batches(_SCAN_ROWS, columns=columns, use_threads=False):
                for row in _rows_of(batch, self._max):
                    yield index, row if isinstance(row, BadRow) else with_names(marked(row, unread), self._classes)
                    index += 1

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            self._reader = None
            self._groups.clear()
            self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_file", "_original", "_max", "_first", "_classes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_reader": None, "_groups": OrderedDict(), "_lock": threading.Lock()}

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        if self._reader is None:
            self._file.check_open()
            self._reader = pq.ParquetFile(self._file.path, memory_map=False, pre_buffer=False, buffer_size=1 << 20)
        return self._reader


class ArrowRows:
    """Rows of an Arrow file or stream, as `datasets` saves them: memory-mapped, so that a row costs what it holds."""

    format, unit = "Arrow", "row"

    def __init__(self, path: Path, max_row_bytes: int):
        self._file = StableFile(path)
        self._max = max_row_bytes
        self._batches: list[Any] | None = None
        self._map: Any = None
        self._lock = threading.Lock()
        with reading(path):
            batches = self._open()
        counts = [batch.num_rows for batch in batches]
        _refuse_twins(path, self._schema.names)
        self._classes = class_names(self._schema)
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._first[-1])

    def number(self, index: int) -> int:
        return index + 1

    def read(self, index: int) -> Row:
        self._file.check()
        at = int(np.searchsorted(self._first, index, side="right")) - 1
        with reading(self._file.path):
            row = one_row(self._open()[at], index - int(self._first[at]), self._max)
        return with_names(row, self._classes)

    def scan(self) -> Iterator[tuple[int, Row | BadRow]]:
        self._file.check()
        index = 0
        with reading(self._file.path):
            for batch in self._open():
                light_batch, unread = _without_bytes(batch), bytes_paths(batch.schema)
                for start in range(0, batch.num_rows, _SCAN_ROWS):
                    for row in _rows_of(light_batch.slice(start, _SCAN_ROWS), self._max):
                        yield index, row if isinstance(row, BadRow) else with_names(marked(row, unread), self._classes)
                        index += 1

    def close(self) -> None:
        with self._lock:
            self._batches = None
            if self._map is not None:
                self._map.close()
                self._map = None
            self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_file", "_max", "_first", "_classes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_batches": None, "_map": None, "_lock": threading.Lock()}

    def _open(self) -> list[Any]:
        import pyarrow as pa

        with self._lock:
            if self._batches is None:
                self._file.check_open()
                self._map = pa.memory_map(str(self._file.path))
                if self._file.read(0, min(6, self._file.size)) == b"ARROW1":
                    reader = pa.ipc.open_file(self._map)
                    batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
                else:
                    reader = pa.ipc.open_stream(self._map)
                    batches = list(reader)
                self._schema: Any = reader.schema
                self._batches = batches
            return self._batches


class reading:
    """Turns pyarrow's errors into a UserError that names the file."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow as pa

        if isinstance(error, pa.ArrowException | OSError | EOFError) and not isinstance(error, UserError):
            short = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(
                f"{self._path} is broken or cut short ({short}). Download or make the file again."
            ) from error


def one_row(table: Any, offset: int, max_bytes: int) -> Row:
    """A row as Python values. Raises BadRow for one that is too large, or holds a text that is none."""
    part = table.slice(offset, 1)
    size = part.nbytes
    if size > max_bytes:
        raise BadRow("row too large", f"it has {size:,} bytes, where at most {max_bytes:,} are read as one row")
    return _in_python(part)[0]


def _in_python(rows: Any) -> list[dict[str, Any]]:
    """Rows as Python values. Raises BadRow for a value that Python has none for."""
    try:
        return rows.to_pylist(maps_as_pydicts="strict")
    except UnicodeDecodeError as error:
        raise BadRow("no text", f"a string in it is not in UTF-8 ({error})") from None
    except (ValueError, OverflowError, KeyError) as error:  # years beyond 9999, time zones that nobody knows
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise BadRow("no value", f"a value in it can't be read, as of a time out of range ({why})") from None


def _rows_of(batch: Any, max_bytes: int) -> Iterator[dict[str, Any] | BadRow]:
    """The rows of a few, one by one where together they are more than one may be, or where one of them is bad."""
    if batch.nbytes <= max_bytes:
        try:
            rows = _in_python(batch)
        except BadRow:
            pass  # it is found below
        else:
            yield from rows
            return
    for offset in range(batch.num_rows):
        try:
            yield dict(one_row(batch, offset, max_bytes))
        except BadRow as error:
            yield error


def _refuse_twins(path: Path, names: list[str]) -> None:
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two columns of the name {twice!r}. Rename one of them and write the file again.")


def class_names(schema: Any) -> dict[str, list[str]]:
    """Column -> names of the classes that its numbers stand for, where `datasets` notes them: its ClassLabel."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        items = [(name, feature.get("feature", feature)) for name, feature in features.items()]
        class_names = {name: inner["names"] for name, inner in items if inner.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: names
        for name, names in class_names.items()
        if name in schema.names and isinstance(names, list) and all(isinstance(each, str) for each in names)
    }


def with_names(row: Row, classes: dict[str, list[str]]) -> Row:
    """The row with the names of classes in place of their numbers; -1, as of a test set without labels, is none."""
    if not classes:
        return row
    return {**row, **{name: _class_name(row[name], names) for name, names in classes.items()}}


def _class_name(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_class_name(part, names) for part in value]
    if not isinstance(value, int) or value >= len(names):
        return value
    return names[value] if value >= 0 else None


def bytes_paths(schema: Any) -> list[tuple[str, ...]]:
    """Where a scan leaves bytes unread: ("image", "bytes"), ("images", "*", "bytes"); "*" stands for each of a list."""
    return [path for field in schema for path in _bytes_paths(field.type, (field.name,))]


def marked(row: dict[str, Any], unread: list[tuple[str, ...]]) -> dict[str, Any]:
    """The row with `UNREAD` where bytes were left out."""
    for path in unread:
        _mark(row, path)
    return row


def _mark(value: Any, path: tuple[str, ...]) -> None:
    if value is None:
        return
    if path[0] == "*":
        for part in value:
            _mark(part, path[1:])
    elif len(path) == 1:
        value[path[0]] = UNREAD
    else:
        _mark(value.get(path[0]), path[1:])


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _bytes_paths(kind: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    import pyarrow as pa

    if _is_bytes(kind):
        return [] if path[-1] == "*" else [path]
    if pa.types.is_struct(kind) and not all(_is_bytes(field.type) for field in kind):
        return [inner for field in kind for inner in _bytes_paths(field.type, (*path, field.name))]
    return _bytes_paths(kind.value_type, (*path, "*")) if _is_list(kind) else []


def _leaves(kind: Any, path: str, listed: bool = False) -> list[str]:
    """Dotted paths of a column's leaves, as parquet names them, without those of `bytes_paths`."""
    import pyarrow as pa

    if _is_bytes(kind):
        return [path] if listed else []
    if pa.types.is_struct(kind):
        whole = all(_is_bytes(field.type) for field in kind)
        return [leaf for field in kind for leaf in _leaves(field.type, f"{path}.{field.name}", whole)]
    if _is_list(kind):
        return _leaves(kind.value_type, f"{path}.list.{kind.value_field.name}", True)
    return [path]


def _without_bytes(batch: Any) -> Any:
    import pyarrow as pa

    pairs = zip(batch.schema.names, map(_strip, batch.columns), strict=True)
    columns = {name: column for name, column in pairs if column is not None}
    if not columns and batch.schema.names:  # a batch without columns would have no rows
        columns = {batch.schema.names[0]: pa.nulls(batch.num_rows)}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _strip(column: Any, listed: bool = False) -> Any:
    """A column without the bytes of `bytes_paths`; None if nothing is left."""
    import pyarrow as pa

    kind = column.type
    if _is_bytes(kind):
        return column if listed else None
    if pa.types.is_struct(kind) and not all(_is_bytes(field.type) for field in kind):
        fields = {field.name: _strip(column.field(i)) for i, field in enumerate(kind)}
        fields = {name: array for name, array in fields.items() if array is not None}
        return pa.StructArray.from_arrays(list(fields.values()), names=list(fields), mask=column.is_null())
    if _is_list(kind):
        make = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
        mask = column.is_null() if column.null_count else None
        return make.from_arrays(column.offsets, _strip(column.values, True), mask=mask)
    return column


def regrouped(path: Path, max_row_bytes: int, cache: Path | None) -> ParquetRows:
    """The rows of a parquet file with large row groups, from a copy in the cache with small ones.

    A row of a large group would cost the decoding of all of it. The copy is made once, in bounded memory.
    """
    import pyarrow.parquet as pq

    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:32]
    copy = cache_folder(cache, "parquet") / f"{key}.parquet"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        draft = draft_of(copy)
        print(f"{path} has large row groups: its rows are copied to {copy} once, for access one by one")
        try:
            with (
                writing(copy),
                reading(path),
                pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as old,
                pq.ParquetWriter(draft, old.schema_arrow, compression="none") as new,
            ):
                for batch in old.iter_batches(COPIED_ROWS, use_threads=False):
                    new.write_batch(batch)
            draft.replace(copy)
        finally:
            draft.unlink(missing_ok=True)
    return ParquetRows(copy, max_row_bytes, original=path)
