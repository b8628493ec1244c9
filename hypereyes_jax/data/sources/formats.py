"""Which format a file has, told by its first bytes and never by its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypereyes_jax.data.sources.json_rows import JsonRows
from hypereyes_jax.data.sources.record_rows import SIGNATURE, RecordRows
from hypereyes_jax.data.sources.table_rows import GROUP_BYTES, ArrowRows, ParquetRows, regrouped
from hypereyes_jax.data.sources.types import Rows, SourceOptions
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import open_regular

DATA_SUFFIXES = frozenset((".parquet", ".pq", ".arrow", ".array_record", ".jsonl", ".ndjson", ".json"))
_REFUSED = {  # first bytes -> what it is, what to do
    b"\x1f\x8b": ("compressed by gzip", "Unpack it first: gunzip FILE"),
    b"BZh": ("compressed by bzip2", "Unpack it first: bunzip2 FILE"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "Unpack it first: unzstd FILE"),
    b"\xfd7zXZ": ("compressed by xz", "Unpack it first: unxz FILE"),
    b"PK\x03\x04": ("a zip archive", "Unpack it and give a file in it"),
    b"\x89PNG": ("an image", "Give the file with the rows, which names the images"),
    b"\xff\xd8\xff": ("an image", "Give the file with the rows, which names the images"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "Fetch the file: git lfs pull"),
}
_PICKLED = "a pickle, which runs code when it is read"
_HEAD = 1 << 16


def open_rows(path: Path, name: str, options: SourceOptions) -> Rows:
    """The rows of a file. Raises UserError for a file that is none of the formats, or broken."""
    head = _head(path)
    if head.startswith(b"PAR1"):
        rows = ParquetRows(path, options.max_row_bytes)
        if rows.largest_group > GROUP_BYTES:
            rows.close()
            return regrouped(path, options.max_row_bytes, options.cache)
        return rows
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return ArrowRows(path, options.max_row_bytes)
    if SIGNATURE in head[:64]:
        return RecordRows(path, options.max_row_bytes)
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        raise UserError(f"{name} is {_PICKLED}, so it is not read. Save the rows as parquet or JSON lines.")
    for start, (what, cure) in _REFUSED.items():
        if head.startswith(start):
            raise UserError(f"{name} is {what}. {cure}.")
    return JsonRows(path, options.max_row_bytes, array=_is_array(head))


def _is_array(head: bytes) -> bool:
    """A JSON array over the file, and not JSON lines of which the first, wrongly, is a list."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"["):
        return False
    line = text.partition(b"\n")[0].strip()
    if not text.partition(b"\n")[2].strip():
        return True  # a file of one line
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True  # it goes on
    return False


def _head(path: Path) -> bytes:
    if not os.path.lexists(path):
        raise UserError(f"there is no {path}. Give the file, or make one with `hypereyes synth`.")
    with open_regular(path) as file:  # reading a FIFO would wait for ever
        return file.read(_HEAD)
