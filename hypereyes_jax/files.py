"""Files that are either whole or absent, and file errors that name the file and the cure."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError

_CURES = {
    errno.ENOSPC: "the disk is full. Free some space, or choose a directory on another disk",
    errno.EDQUOT: "your disk quota is used up. Free some space, or choose a directory on another disk",
    errno.EACCES: "permission denied. Choose a directory you may write to, or change its owner",
    errno.EPERM: "permission denied. Choose a directory you may write to, or change its owner",
    errno.EROFS: "the file system is read-only. Choose a directory you may write to",
    errno.ENOTDIR: "a part of this path is a file. Choose another directory",
    errno.EEXIST: "a file of this name is in the way. Choose another directory",
    errno.EISDIR: "a directory of this name is in the way. Choose another name",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into a `UserError` that names the file and the cure. Other errors pass through."""
    try:
        yield
    except OSError as error:
        cure = _CURES.get(error.errno or 0)
        if cure is None:
            raise
        raise UserError(f"can't write {error.filename or path}: {cure}; then run the same command again.") from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that it is either whole or as before, whatever happens meanwhile (kill -9 or a full disk too).

    Raises:
      UserError: the disk is full, or the place can't be written; the old file, if any, is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    payload = data.encode() if isinstance(data, str) else data
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Load a JSON file.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no {path}. Is this the directory of a finished run?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}). Remove it and run the command that made it again.") from None


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of readable JSON. NaN and infinities are refused: no other program could read the file."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
