"""Files that are compressed as a whole: they are unpacked to the cache once, where each row can be read by itself."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypereyes_jax.data.sources.cache import cache_folder
from hypereyes_jax.data.sources.json_rows import StableFile
from hypereyes_jax.data.sources.types import BadRow, Row, Rows
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import writing, writing_atomic

SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".lz4")
_SIGNATURES = {  # first bytes -> what compressed it
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
_BLOCK = 4 << 20
_SPARE_BYTES = 1 << 30  # of the disk, which what is unpacked leaves free


def codec_of(head: bytes) -> str | None:
    """What compressed a file that begins so; None if it is not compressed."""
    return next((codec for signature, codec in _SIGNATURES.items() if head.startswith(signature)), None)


def without_suffix(name: str) -> str:
    """A file's name without the last part where that tells how it is compressed: rows.jsonl of rows.jsonl.gz."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name.removesuffix(name[len(name) - len(suffix) :]) if suffix else name


def head_of(path: Path, name: str, codec: str, size: int) -> bytes:
    """The first bytes of what a file holds once unpacked. Raises UserError for a broken one."""
    with _reading(name, codec), _opened(path, codec) as file:
        return file.read(size)


def unpacked(path: Path, name: str, codec: str, cache: Path | None) -> Path:
    """A copy of a compressed file in the cache, unpacked, made once. Raises UserError for a broken one."""
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:32]
    copy = cache_folder(cache, "unpacked") / key
    if copy.exists():
        return copy
    with writing(copy):
        copy.parent.mkdir(parents=True, exist_ok=True)
    print(f"{name} is compressed: it is unpacked to {copy} once, for access to its rows one by one")
    with _reading(name, codec), _opened(path, codec) as packed, writing_atomic(copy) as out:
        while block := packed.read(_BLOCK):
            if shutil.disk_usage(copy.parent).free < len(block) + _SPARE_BYTES:
                raise UserError(
                    f"{name} holds more than the disk of {copy.parent} has room for: {out.tell():,} bytes are "
                    "unpacked, and more follow. Free some space, or put the cache elsewhere by XDG_CACHE_HOME."
                )
            out.write(block)
    return copy


class UnpackedRows:
    """Rows of a compressed file, read from its copy as long as the file itself does not change."""

    def __init__(self, rows: Rows, path: Path, codec: str):
        self._rows, self._original = rows, StableFile(path)
        self.format, self.unit = f"{rows.format}, compressed by {codec}", rows.unit

    def __len__(self) -> int:
        return len(self._rows)

    def number(self, index: int) -> int:
        return self._rows.number(index)

    def read(self, index: int) -> Row:
        self._original.check()
        return self._rows.read(index)

    def scan(self) -> Iterator[tuple[int, Row | BadRow]]:
        self._original.check()
        yield from self._rows.scan()

    def close(self) -> None:
        self._rows.close()


def _opened(path: Path, codec: str) -> Any:
    """What a file holds, as a stream; of files put together behind one another, all of them."""
    if codec == "gzip":
        return gzip.open(path)
    if codec == "bzip2":
        return bz2.open(path)
    if codec == "xz":
        return lzma.open(path)
    import pyarrow as pa

    return pa.input_stream(str(path), compression=codec)


class _reading:
    """The errors of all that unpack, as a UserError."""

    def __init__(self, name: str, codec: str):
        self._name, self._codec = name, codec

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | EOFError | zlib.error | lzma.LZMAError) and not isinstance(error, UserError):
            short = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"{self._name} is broken or cut short: what {self._codec} compressed can't be unpacked ({short}). "
                "Download or make the file again."
            ) from error
