"""Where a checkpoint lies: a directory of this machine, or a remote one of which only the wanted bytes are read.

`gs://` goes through TensorStore's key-value stores, which need no further package; every other scheme (`s3://`, `hf://`,
`az://`, `memory://`, ...) goes through fsspec and the package that it names for the scheme.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular
from hypereyes_jax.logins import without_login

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
# Companion files are a few megabytes at most; a remote file that claims to be larger is not read into memory whole.
_MAX_TEXT_BYTES = 200 << 20


class StorageError(UserError, ValueError):
    """A remote file that can't be read: the message names it and says why."""


class RangeFile(Protocol):
    """One file, read by ranges of bytes."""

    @property
    def name(self) -> str:
        """The name of the file within its directory."""

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start..stop-1; fewer where the file ends before."""

    def holds(self, stop: int) -> bool:
        """Whether the file has at least that many bytes."""


class Directory(Protocol):
    """A flat directory of files."""

    def exists(self, name: str) -> bool: ...

    def read_bytes(self, name: str) -> bytes:
        """A whole small file. Raises FileNotFoundError."""

    def file(self, name: str) -> RangeFile: ...


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine, read in ranges."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)

    def holds(self, stop: int) -> bool:
        return self.path.stat().st_size >= stop


@dataclass(frozen=True)
class LocalDirectory:
    """A directory of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def names(self) -> list[str]:
        """Names of what lies in it, sorted."""
        return sorted(os.listdir(self.path))

    def read_bytes(self, name: str) -> bytes:
        refuse_irregular(self.path / name)
        return (self.path / name).read_bytes()

    def file(self, name: str) -> LocalFile:
        refuse_irregular(self.path / name)
        return LocalFile(self.path / name)


@dataclass(frozen=True)
class _KvFile:
    store: Any  # tensorstore.KvStore
    name: str
    url: str

    def read(self, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        try:
            return self.store.read(self.name, byte_range=slice(start, stop)).result().value
        except ValueError as error:  # out of range: the file ends before
            if "OUT_OF_RANGE" not in str(error):
                raise StorageError(f"can't read {self.url}{self.name} ({error}).") from error
        try:
            return self.store.read(self.name, byte_range=slice(start, None)).result().value
        except ValueError as error:
            if "OUT_OF_RANGE" in str(error):
                return b""
            raise StorageError(f"can't read {self.url}{self.name} ({error}).") from error

    def holds(self, stop: int) -> bool:
        return stop == 0 or len(self.read(stop - 1, stop)) == 1


@dataclass(frozen=True)
class KvDirectory:
    """A directory in a key-value store of TensorStore."""

    store: Any  # tensorstore.KvStore, its path ending in "/"
    url: str

    def __str__(self) -> str:
        return without_login(self.url.rstrip("/"))

    def exists(self, name: str) -> bool:
        return self._read(name, slice(0, 1)).state == "value"

    def read_bytes(self, name: str) -> bytes:
        result = self._read(name, None)
        if result.state != "value":
            raise FileNotFoundError(f"{self}/{name}")
        return result.value

    def file(self, name: str) -> _KvFile:
        return _KvFile(self.store, name, self.url)

    def _read(self, name: str, byte_range: slice | None) -> Any:
        try:
            return self.store.read(name, byte_range=byte_range).result()
        except ValueError as error:
            raise StorageError(
                f"can't read {self.url}{name} ({_first_line(error)}). Check the address and your access to it."
            ) from error


@dataclass(frozen=True)
class _FsspecFile:
    system: Any  # fsspec.AbstractFileSystem
    path: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    def read(self, start: int, stop: int) -> bytes:
        return _of_fsspec(self.path, lambda: self.system.cat_file(self.path, start=start, end=stop))

    def holds(self, stop: int) -> bool:
        return _of_fsspec(self.path, lambda: self.system.size(self.path)) >= stop


@dataclass(frozen=True)
class FsspecDirectory:
    """A directory of any file system that fsspec knows."""

    system: Any  # fsspec.AbstractFileSystem
    path: str
    url: str

    def __str__(self) -> str:
        return without_login(self.url.rstrip("/"))

    def exists(self, name: str) -> bool:
        return _of_fsspec(f"{self.url}{name}", lambda: self.system.isfile(self._path(name)))

    def read_bytes(self, name: str) -> bytes:
        path = self._path(name)
        if not self.exists(name):
            raise FileNotFoundError(f"{self}/{name}")
        size = _of_fsspec(path, lambda: self.system.size(path))
        if size > _MAX_TEXT_BYTES:
            raise StorageError(f"{self.url}{name} has {size} bytes, more than any such file of a checkpoint has.")
        return _of_fsspec(path, lambda: self.system.cat_file(path))

    def file(self, name: str) -> _FsspecFile:
        return _FsspecFile(self.system, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether this is an address of a storage and not a local path."""
    return isinstance(path, str) and _URL.match(path) is not None


def open_directory(path: str | os.PathLike[str]) -> Directory:
    """A local path or a URL. Nothing is read yet.

    Raises StorageError for a URL of a scheme that nothing installed can read.
    """
    if not is_url(path):
        return LocalDirectory(Path(path))
    url = str(path).rstrip("/") + "/"
    if url.startswith("gs://"):
        import tensorstore

        try:
            return KvDirectory(tensorstore.KvStore.open(url).result(), url)
        except ValueError as error:
            raise StorageError(f"{path} is not a valid address of a bucket ({_first_line(error)}).") from error
    try:
        import fsspec

        system, inner = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"can't read {path}: {_first_line(error)}. Install what reads that scheme (for s3:// "
            "`pip install 'hypereyes-jax[remote]'`), or copy the directory to this machine."
        ) from error
    return FsspecDirectory(system, inner, url)


def _of_fsspec(path: str, call: Callable[[], Any]) -> Any:
    """`call()`, with a failure of the file system or of its network client as a StorageError."""
    try:
        return call()
    except _client_errors() as error:
        why = f"{type(error).__name__}: {_first_line(error)}"
        raise StorageError(f"can't read {path} ({why}). Check the address and your access to it.") from error


def _client_errors() -> tuple[type[BaseException], ...]:
    """What fsspec's file systems raise, and what the network clients raise that some of them let through."""
    kinds: list[type[BaseException]] = [OSError, ValueError]
    clients = (
        ("botocore.exceptions", "BotoCoreError"),
        ("aiohttp", "ClientError"),
        ("httpx", "TransportError"),  # of the hub's own library, which may come with a newer one of the same makers
        ("httpx2", "TransportError"),
    )
    for module, name in clients:
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return tuple(kinds)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
