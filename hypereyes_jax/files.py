"""Files that are either whole or absent, and file errors that name the file and the cure."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hypereyes_jax.errors import UserError

_DEAD_AFTER_SECONDS = 86_400.0
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
    with writing_atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def writing_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece, which gets its name at the end: `write_atomic` without all of it in memory."""
    temporary = draft_of(path)
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def draft_of(path: Path) -> Path:
    """Where this process puts a file or directory together before it gets its name: beside it, marked as its own."""
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.part")


def remove_dead_drafts(directory: Path) -> None:
    """Remove what killed processes left in `directory` half-written, which may be whole models.

    Call it before this process writes there. On a file system that hosts share, another host's process may be alive:
    its drafts go only when nothing has been written to them for a day.
    """
    for draft in directory.glob(".*.part"):
        name = _DRAFT.fullmatch(draft.name)
        if name is None:
            continue
        with contextlib.suppress(OSError):  # another process may just be finishing, or removing, it
            if not (name["host"] == _host() and _is_dead(int(name["pid"]))) and not _is_old(draft):
                continue
            if draft.is_dir():
                shutil.rmtree(draft)
            else:
                draft.unlink()


_DRAFT = re.compile(r"\..+\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.part")


def _host() -> str:
    return re.sub(r"[^\w-]", "-", platform.node()) or "-"


def _is_dead(pid: int) -> bool:
    """Whether no process of this host but this one, which is not writing yet, has the number."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _is_old(draft: Path) -> bool:
    newest = max(path.stat().st_mtime for path in (draft, *draft.rglob("*")))
    return time.time() - newest > _DEAD_AFTER_SECONDS


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
