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
_WEIGHTS = (".safetensors", ".bin", ".npz")


def content_digest(path: Path) -> str:
    """sha256, in hex, of a file or of all regular files below a directory, with their names relative to it.

    Hidden files are left out: they are the file system's or a downloader's. Files of weights beyond 256 MiB go in by
    their size, their first MiB (names and shapes of the tensors) and 256 blocks of 64 KiB spread evenly: enough to tell
    two models apart, in seconds for any model. All other files go in whole.

    Raises:
      UserError: there is nothing at `path`, or it can't be read.
    """
    digest = hashlib.sha256()
    if not path.is_dir():
        _add_file(digest, path)
        return digest.hexdigest()
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder) / name
            if name.startswith(".") or not file.is_file():
                continue
            digest.update(f"{file.relative_to(path)}\0".encode("utf-8", "surrogateescape"))
            _add_file(digest, file)
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size}\0".encode())
        if size <= _WHOLE_BYTES or path.suffix not in _WEIGHTS:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            return
        digest.update(file.read(2**20))
        for number in range(_BLOCKS):
            file.seek((size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))


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
