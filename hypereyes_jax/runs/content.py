"""What a file or a model's directory holds, as a digest: a run is continued with the same data wherever they lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import open_regular

_WHOLE_BYTES = 2**28  # larger files of weights are sampled
_BLOCKS, _BLOCK_BYTES = 256, 2**16
_CHUNK = 2**22
_MOST_BYTES, _HEAD_BYTES = 2**33, 4096  # of data, read whole; of each file beyond
_WEIGHTS = (".safetensors", ".bin", ".npz")


def content_digest(path: Path) -> str:
    """sha256, in hex, of a file or of all regular files below a directory, with their names relative to it.

    Hidden files are left out: they are the file system's or a downloader's. Files of weights beyond 256 MiB go in by
    their size, their first MiB (names and shapes of the tensors) and 256 blocks of 64 KiB spread evenly: enough to tell
    two models apart, in seconds for any model. All other files go in whole, up to 8 GiB in all; what lies beyond goes
    in by size and first 4 KiB, so that a folder of a million pictures does not keep a run from starting.

    Raises:
      UserError: there is nothing at `path`, or it can't be read.
    """
    digest = _Digest()
    if not path.is_dir():
        digest.add(path)
        return digest.sha256.hexdigest()
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder) / name
            if name.startswith(".") or not file.is_file():
                continue
            digest.sha256.update(f"{file.relative_to(path)}\0".encode("utf-8", "surrogateescape"))
            digest.add(file)
    return digest.sha256.hexdigest()


class _Digest:
    """The digest of files, one after another."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self._left = _MOST_BYTES

    def add(self, path: Path) -> None:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            self.sha256.update(f"{size}\0".encode())
            if size > _WHOLE_BYTES and path.suffix in _WEIGHTS:
                self.sha256.update(file.read(2**20))
                for number in range(_BLOCKS):
                    file.seek((size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
                    self.sha256.update(file.read(_BLOCK_BYTES))
            elif size > self._left:
                self.sha256.update(file.read(_HEAD_BYTES))
            else:
                self._left -= size
                while chunk := file.read(_CHUNK):
                    self.sha256.update(chunk)


def input_digests(inputs: Mapping[str, Path]) -> dict[str, str]:
    """The digest of each input of a run that lies on this machine, by the name of its setting.

    What is not a local path (a model of the Hub) is known by its name alone.

    Raises:
      UserError: an input can't be read; names the setting.
    """
    digests = {}
    for name, path in inputs.items():
        if not path.exists():
            continue
        try:
            digests[name] = content_digest(path)
        except UserError as error:
            raise UserError(f"--{name.replace('_', '-')}: {error}") from error
    return digests
