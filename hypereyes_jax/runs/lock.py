"""One process at a time in a run's directory: the second is told which process holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import stat
import sys
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import parse_file_json, writing
from hypereyes_jax.runs.terminal import visible

LOCK = ".lock"
_THIS_PROCESS = uuid.uuid4().hex  # a process number is not enough: containers count from 1, each by itself
_MOST_BYTES = 4096  # of what a holder says of itself
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class DirectoryLock:
    """A lock on a directory, from `acquire` until `release` or the end of this process, however that comes about.

    It is the kernel's (`flock`), so that nothing is left to clean up after a kill; NFS passes it on to its server. The
    file says who holds it. Where this process holds the directory already, a further lock is granted: the lock is
    between processes.
    """

    def __init__(self, directory: Path, file: BinaryIO | None):
        self.directory = directory
        self._file = file

    @classmethod
    def acquire(cls, directory: Path, command: str) -> DirectoryLock:
        """Lock an existing directory for a command.

        On a file system without locks (Lustre mounted without `flock`) it warns and goes on.

        Raises:
          UserError: another process holds it, the directory can't be written, or something that is no file has the
            lock's name.
        """
        path = directory / LOCK
        if path.is_symlink():  # what it leads to would be emptied
            raise UserError(f"{path} is a link, where a run keeps its lock. Remove the link.")
        with writing(path):
            # Not inherited by children, which would hold the lock after the end of this process.
            flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o666)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            raise UserError(f"{path} is not a regular file, where a run keeps its lock. Remove it.")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                file.close()
                warning = (
                    f"warning: the file system of {directory} has no locks, so a second process in it would not be "
                    "noticed. See to it that there is none."
                )
                print(visible(warning), file=sys.stderr)
                return cls(directory, None)
            holder = _holder(file)
            file.close()
            if holder.get("token") == _THIS_PROCESS:
                return cls(directory, None)
            raise UserError(f"{directory} is in use by {_words(holder)}. Wait for its end, or end it.") from None
        holder = {
            "process": os.getpid(),
            "host": platform.node(),
            "command": command,
            "since": time.strftime("%Y-%m-%d %H:%M:%S%z"),
            "token": _THIS_PROCESS,
        }
        with writing(path):
            file.truncate(0)
            file.seek(0)
            file.write(json.dumps(holder).encode())
        return cls(directory, file)

    def release(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a disk that is full; the lock goes with the descriptor
                self._file.truncate(0)
            self._file.close()
            self._file = None

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _holder(file: BinaryIO) -> dict[str, object]:
    try:
        value = parse_file_json(file.read(_MOST_BYTES))
    except (OSError, ValueError):  # it has the lock and is just about to write
        return {}
    return value if isinstance(value, dict) else {}


def _words(holder: dict[str, object]) -> str:
    if "process" not in holder:
        return "another process"
    return (
        f"process {holder['process']} on {holder.get('host')} "
        f"(`hypereyes {holder.get('command')}`, since {holder.get('since')})"
    )
