"""Which format a file has, told by its first bytes and never by its name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from hypereyes_jax.data.sources.columns import BY_ID
from hypereyes_jax.data.sources.compressed import UnpackedRows, codec_of, head_of, unpacked, without_suffix
from hypereyes_jax.data.sources.delimited_rows import DelimitedRows, delimiter_of
from hypereyes_jax.data.sources.json_rows import JsonRows, StableFile, not_utf8
from hypereyes_jax.data.sources.record_rows import SIGNATURE, RecordRows
from hypereyes_jax.data.sources.table_rows import GROUP_BYTES, ArrowRows, ParquetRows, regrouped
from hypereyes_jax.data.sources.types import Rows, SourceOptions
from hypereyes_jax.data.sources.wrapped_rows import top_level
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import open_regular

File = TypeVar("File")
# In this order: of a folder with several kinds, which are mostly the same rows twice, the first is taken.
DATA_SUFFIXES = (".parquet", ".pq", ".arrow", ".feather", ".array_record", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
# Files that describe a data set, and hold none of its rows.
META = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"))
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz")  # of which nothing is read, as of any file that holds others
_IMAGE = ("an image", "Give the file with the rows, which names the images")
_VIDEO = ("a video", "Give the file with the rows, which names the videos")
_WORKBOOK = ("an Excel workbook", "Save its sheet as CSV, with the columns' names in the first line")
_SAVE = "Save the rows as parquet or JSON lines"
_UNPACK = (
    "Unpack it and give the folder or a file in it. A shard of WebDataset is made a table by "
    "load_dataset('webdataset', data_files=FILE)['train'].to_parquet('rows.parquet') of the package datasets"
)
_REFUSED: tuple[tuple[str, tuple[str, str]], ...] = (  # what the first bytes match, in Latin-1 -> what it is, the cure
    (r"PK\x03\x04.{0,3000}?(?:\[Content_Types\]|xl/)", _WORKBOOK),
    (r"\xd0\xcf\x11\xe0", _WORKBOOK),
    (r"PK\x03\x04.{26}[^/]{0,200}/data\.pkl", ("a file of PyTorch, which holds a pickle", _SAVE)),
    (r"PK\x03\x04", ("a zip archive", "Unpack it and give a file in it")),
    (r"7z\xbc\xaf|Rar!", ("an archive", "Unpack it and give a file in it")),
    (r".{257}ustar", ("a tar archive", _UNPACK)),
    (r"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|BM.{4}\0\0\0\0", _IMAGE),
    (r".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", _VIDEO),
    (r"version https://git-lfs", ("a pointer of Git LFS, not the file itself", "Fetch the file: git lfs pull")),
    (r"%PDF", ("a PDF", _SAVE)),
    (r"SQLite format 3", ("a database of SQLite", _SAVE)),
    (r"\x89HDF", ("an HDF5 file", _SAVE)),
    (r"\x93NUMPY", ("an array of NumPy", _SAVE)),
    (r"Obj\x01", ("an Avro file", _SAVE)),
    (r"ORC[^\w\s,;|]", ("an ORC file", _SAVE)),
    (r".{5}\0\0\0\{\"", ("a safetensors file, which holds weights", "Give the file with the rows")),
    (
        r"\xff\xfe|\xfe\xff|\{\0|\[\0|\0[\{\[]",
        ("text in UTF-16 or UTF-32", "Convert it: iconv -f utf-16 -t utf-8 FILE"),
    ),
    (
        r"(?i:\s*<(?:!doctype|html|\?xml|head|body))",
        ("a page of HTML or XML", "Fetch the file itself: this may be a page of an error or a login"),
    ),
)
_PICKLED = "a pickle, which runs code when it is read"
_HEAD = 1 << 16
_WHOLE = 64 << 20  # bytes of a JSON object over several lines that is looked into, to say what it holds


def open_rows(path: Path, name: str, options: SourceOptions) -> Rows:
    """The rows of a file. Raises UserError for a file that is none of the formats, or broken."""
    head = _head(path)
    codec = codec_of(head)
    if codec is not None:
        inside = head_of(path, name, codec, _HEAD)
        if codec_of(inside) is not None:
            raise UserError(f"{name} is compressed twice. Unpack it once, and give what it holds.")
        _refuse_foreign(inside, name)  # before all of it is unpacked
        return UnpackedRows(_rows(unpacked(path, name, codec, options.cache), name, inside, options), path, codec)
    return _rows(path, name, head, options)


def _rows(path: Path, name: str, head: bytes, options: SourceOptions) -> Rows:
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
    _refuse_foreign(head, name)
    return _text_rows(path, name, head, options)


def is_data(name: str) -> bool:
    """Whether a file's name ends as those of rows do, compressed or not."""
    return without_suffix(name.lower()).endswith(DATA_SUFFIXES)


def of_one_kind(files: Sequence[File], name: Callable[[File], str]) -> list[File]:
    """The files of the format that comes first in `DATA_SUFFIXES`, of files of several; of one that lies there both
    ways, those that are not compressed."""
    for suffix in DATA_SUFFIXES:
        of_kind = [file for file in files if name(file).lower().endswith(suffix)]
        if not of_kind:
            of_kind = [file for file in files if without_suffix(name(file).lower()).endswith(suffix)]
        if of_kind:
            return of_kind
    return list(files)


def _refuse_foreign(head: bytes, name: str) -> None:
    """Raises UserError for a file that begins as those of formats do that are not read."""
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        raise UserError(f"{name} is {_PICKLED}, so it is not read. Save the rows as parquet or JSON lines.")
    start = head[:4096].decode("latin-1")
    for pattern, (what, cure) in _REFUSED:
        if re.match(pattern, start, re.DOTALL):
            raise UserError(f"{name} is {what}. {cure}.")


def _text_rows(path: Path, name: str, head: bytes, options: SourceOptions) -> Rows:
    """The rows of a file in JSON, or of one whose first line names columns. Raises UserError for another one."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return JsonRows(path, options.max_row_bytes, array=_is_array(text))
    if text.startswith(b"{"):
        wrapped = _wrapped_rows(path, name, len(head) - len(text), options)
        if wrapped is not None:
            return wrapped
        _refuse_spread(path, name, text)
    # not even one line of it can be a row in JSON
    elif text and not _is_json(text.partition(b"\n")[0]) and re.search(rb"^\s*\{", text, re.MULTILINE) is None:
        return DelimitedRows(path, options.max_row_bytes, _delimiter(name, text, options.columns), options.columns)
    return JsonRows(path, options.max_row_bytes, array=False)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _delimiter(name: str, text: bytes, columns: Mapping[str, str]) -> str:
    """What delimits the columns that a text's first line names. Raises UserError if it names none."""
    line, newline, _ = text.partition(b"\n")
    try:
        first = line.decode("utf-8", "strict" if newline or len(text) < _HEAD // 2 else "replace").rstrip("\r")
    except UnicodeDecodeError as error:
        raise not_utf8(name, error) from None
    delimiter = delimiter_of(first, columns)
    if delimiter is not None:
        return delimiter
    if delimiter_of(first.partition("\r")[0], columns) is not None:
        raise UserError(
            f"the lines of {name} end with carriage returns alone. Convert it: tr '\\r' '\\n' < FILE > NEW.csv"
        )
    if not name.lower().endswith((".csv", ".tsv")):
        raise UserError(
            f"{name} is not data that can be read here: it begins with {first[:60]!r}. Give JSON lines, a JSON array, "
            "parquet, Arrow, ArrayRecord, or CSV whose first line names the columns."
        )
    raise UserError(
        f"the first line of {name} names no columns of questions: {first[:200]!r}. It must name columns such as "
        "question, answer and image; those of other names are given by --columns text=NAME answers=NAME."
    )


def _wrapped_rows(path: Path, name: str, start: int, options: SourceOptions) -> JsonRows | None:
    """The rows of one JSON object that is there for a list of them; None where the object is a row, or there are more.

    Raises UserError where several lists may be meant.
    """
    file = StableFile(path)
    try:
        top = top_level(file, start)
    finally:
        file.close()
    if top is None or not top.wraps_rows(options.columns.values()):
        return None
    if len(top.lists) > 1:
        names = list(top.lists)
        raise UserError(
            f"{name} is one JSON object with several lists of rows: {', '.join(names)}. Make the one that is meant a "
            f"file: jq -c '{_elements(names[0])}' FILE > FILE.jsonl"
        )
    (spans,) = top.lists.values()
    return JsonRows(path, options.max_row_bytes, array=True, elements=spans)


def _elements(name: str) -> str:
    """What jq calls the elements of a list."""
    return f".{name}[]" if name.isidentifier() else f'.["{name}"][]'


def _refuse_spread(path: Path, name: str, text: bytes) -> None:
    """Raises UserError for JSON objects that are spread over several lines: neither lines nor an array."""
    line, newline, _ = text.partition(b"\n")
    if not newline or line.rstrip().endswith(b"}") or path.stat().st_size > _WHOLE:
        return
    try:
        whole = path.read_bytes().decode("utf-8-sig").lstrip()
        value, end = json.JSONDecoder().raw_decode(whole)
    except (ValueError, RecursionError):
        return  # told line by line
    if "\n" not in whole[:end]:
        return
    lists = [key for key, part in value.items() if isinstance(part, list)] if isinstance(value, dict) else []
    by_id = isinstance(value, dict) and len(value) > 1 and all(isinstance(part, dict) for part in value.values())
    several = bool(whole[end:].strip())
    one = BY_ID if by_id else _elements(lists[0]) if lists else "."
    query = "." if several else one
    what = "JSON objects that are" if several else "one JSON object that is"
    raise UserError(
        f"{name} holds {what} spread over several lines, where a row is one line, or an element of a JSON array. "
        f"Convert it: jq -c '{query}' FILE > FILE.jsonl"
    )


def _is_array(text: bytes) -> bool:
    """A JSON array over the file, and not JSON lines of which the first, wrongly, is a list."""
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
