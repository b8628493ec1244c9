"""Files that are either whole or absent, and file errors that name the file and the cure."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hypereyes_jax.errors import UserError

MOST_BYTES = 2**31  # of a file that is read into memory at once
_MOST_LINE_BYTES = 2**28  # a trajectory with its pictures has a few MB
_MOST_DIGITS = 30  # of a whole number; those of nanoseconds and of seeds have 19 and 20
_MOST_DEPTH = 100  # levels of lists and objects; our own files have a dozen
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")  # half of a surrogate pair, maybe
_DEAD_AFTER_SECONDS = 86_400.0
_MOST_ENTRIES = 1000  # of a folder that are looked at for what killed processes left
CURES = {  # of an errno, for a person
    errno.ENOSPC: "the disk is full. Free some space, or choose a directory on another disk",
    errno.EFBIG: "files may not be that large here (ulimit -f, or the file system). Choose a directory on another disk",
    errno.EDQUOT: "your disk quota is used up. Free some space, or choose a directory on another disk",
    errno.EACCES: "permission denied. Choose a directory you may write to, or change its owner",
    errno.EPERM: "permission denied. Choose a directory you may write to, or change its owner",
    errno.EROFS: "the file system is read-only. Choose a directory you may write to",
    errno.ENOENT: "its directory does not exist. Create that, or choose another one",
    errno.ENOTDIR: "a part of this path is a file. Choose another directory",
    errno.EEXIST: "a file of this name is in the way. Choose another directory",
    errno.EMFILE: "too many files are open. Allow more (ulimit -n 4096)",
    errno.ENFILE: "this machine has too many files open. Close some programs",
    errno.ELOOP: "a link in this path leads back to itself. Remove the link, or choose another directory",
    errno.ENXIO: "something that is not a file is in the way. Remove it, or choose another directory",
    errno.EISDIR: "a directory of this name is in the way. Choose another name",
    errno.ENOTEMPTY: "another process has written a directory of this name. Choose another name",
    errno.ENAMETOOLONG: "the name is longer than the file system allows. Choose a shorter one",
    errno.EBUSY: "something else is using it, such as a mount. Choose another name",
    errno.EIO: "the disk reports an error. Choose a directory on another disk",
    errno.ESTALE: "its file system was mounted again or is gone. Choose another directory",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into a `UserError` that names the file and the cure. Other errors pass through."""
    try:
        yield
    except OSError as error:
        cure = CURES.get(error.errno or 0)
        if cure is None:
            raise
        raise UserError(f"can't write {error.filename or path}: {cure}; then run the same command again.") from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that it is either whole or as before, whatever happens meanwhile (kill -9 or a full disk too).

    Raises:
      UserError: the disk is full, or the place can't be written; the old file, if any, is untouched.
    """
    with writing_atomic(path) as file:
        file.write(_encoded(data) if isinstance(data, str) else data)


def _encoded(text: str) -> bytes:
    """The text in UTF-8. Where the locale has no letters for a name (LANG=C), Python reads its bytes as halves of
    surrogate pairs, each of which is that byte again here."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        halves = re.sub("[\ud800-\udc7f\udd00-\udfff]", "?", text)
        return halves.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()


@contextlib.contextmanager
def writing_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece, which gets its name at the end: `write_atomic` without all of it in memory."""
    if path.exists() and not path.is_file():
        raise UserError(f"can't write {path}: it exists and is not a regular file. Choose another name.")
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


@contextlib.contextmanager
def writing_directory(path: Path) -> Iterator[Path]:
    """A directory to write into, which gets its name at the end, in place of what had it: it is whole or as before.

    What can't change its name (a mount, the working directory) keeps it, and gets the files: a kill while they are
    moved leaves it without some of them, and hidden files in it stay. Of a link, only the link is replaced.

    Raises:
      UserError: the disk is full, or the place can't be written.
    """
    with writing(path):
        is_directory = path.is_dir() and not path.is_symlink()
        keeps_name = is_directory and (os.path.ismount(path) or path.samefile(Path.cwd()))
        draft = draft_of(path / "new" if keeps_name else path)
        former = draft.with_name(f".former-{draft.name[1:]}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
            if keeps_name:
                _replace_files(path, draft)
            else:
                if is_directory or path.is_symlink():
                    os.replace(path, former)
                os.replace(draft, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # of a failure; a full disk gets its room back
            if os.path.lexists(former) and not os.path.lexists(path):
                os.replace(former, path)
            if former.is_symlink():
                former.unlink()
            shutil.rmtree(former, ignore_errors=True)


def _replace_files(path: Path, draft: Path) -> None:
    """Moves all files of a draft, which lies in the directory, into that, in place of all that are not hidden."""
    for old in list(path.iterdir()):
        if old.name.startswith("."):
            continue
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    for new in list(draft.iterdir()):
        os.replace(new, path / new.name)


def draft_of(path: Path) -> Path:
    """Where this process puts a file or directory together before it gets its name: beside it, marked as its own.

    What killed processes left of it is removed, unless the folder has so many entries that a look at all of them would
    cost more than the writing.
    """
    remains = {path.name}
    if os.path.lexists(path):
        remains.add(f"former-{path.name}")  # what a whole directory had replaced
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in itertools.islice(entries, _MOST_ENTRIES):
            name = _DRAFT.fullmatch(entry.name)
            if name is not None and name["of"] in remains and int(name["pid"]) != os.getpid():
                _remove_if_dead(Path(entry.path), name, name["host"] == _host())
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.part")


def remove_dead_drafts(directory: Path) -> None:
    """Remove what killed processes left in `directory` half-written, which may be whole models.

    Call it before this process writes there. On a file system that hosts share, another host's process may be alive:
    its drafts go only when nothing has been written to them for a day.
    """
    for draft in directory.glob(".*.part"):
        name = _DRAFT.fullmatch(draft.name)
        if name is not None:
            # Those of another container of this host are a container's that was started again: this run has the lock.
            here = _CONTAINER.sub("", name["host"]) == _CONTAINER.sub("", _host())
            _remove_if_dead(draft, name, here)


def _remove_if_dead(draft: Path, name: re.Match[str], here: bool) -> None:
    """Removes a draft that nobody writes any more. `here`: the process that wrote it would have its number here."""
    with contextlib.suppress(OSError):  # another process may just be finishing, or removing, it
        if not (here and _is_dead(int(name["pid"]))) and not _is_old(draft):
            return
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink()


_DRAFT = re.compile(r"\.(?P<of>.+)\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.part")
_CONTAINER = re.compile(r"-p\d{10}$")
_PROCESS_NUMBERS = Path("/proc/self/ns/pid")
_NUMBERS_OF_HOST = 4026531836  # PROC_PID_INIT_INO of the kernel: not those of a container


def _host() -> str:
    """The host, and the container if it counts processes by itself: there, nobody knows whether those here live."""
    name = re.sub(r"[^\w-]", "-", platform.node()) or "-"
    try:
        numbers = _PROCESS_NUMBERS.stat().st_ino
    except OSError:  # not Linux
        return name
    return name if numbers == _NUMBERS_OF_HOST else f"{name}-p{numbers:010d}"


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


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises:
      UserError: it is missing, can't be read, is not a regular file (reading a FIFO would wait for ever), or is larger
        than `most` bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(f"{path} has {size:,} bytes, and at most {most:,} are read. Is it the right file?")
        return file.read(most)


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Raises UserError if it can't be opened or read, or is a FIFO or a device."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path} is not a regular file. Remove it, or give the path of a file.")
            yield file
    except FileNotFoundError:
        hint = "Is this the directory of a finished run?" if path.suffix == ".json" else "Check the path."
        raise UserError(f"there is no {path}. {hint}") from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> UserError:
    """What to tell of a file that is there and can't be read, for which fetching it anew would be no cure."""
    return UserError(f"can't read {path} ({error.strerror or error}). Give a file that you may read.")


def refuse_irregular(path: Path) -> None:
    """Raises UserError for something that is not a regular file: reading a FIFO would wait for ever. A missing file is
    left to whoever reads it."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file. Give the path of a file.")


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a FIFO would wait for a writer. On regular files O_NONBLOCK has no effect."""
    return os.open(path, flags | os.O_NONBLOCK)


def parse_file_json(raw: bytes | str) -> Any:
    """A JSON text: finite numbers, nesting of at most 100 levels, and texts that can all be encoded.

    Half of a surrogate pair, which JSON can escape and nothing later takes, is replaced by "?".

    Raises:
      ValueError: it is anything else.
    """
    text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if text.count("[") + text.count("{") > _MOST_DEPTH:
        _refuse_depth(value)
    if _HALF.search(text):
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def read_json(path: Path, cure: str = "Remove it and run the command that made it again.") -> Any:
    """Load a JSON file.

    Args:
      cure: what to do about a damaged one; by default it is ours.

    Raises:
      UserError: it is missing, no regular file, too large, or damaged.
    """
    try:
        return parse_file_json(read_file(path))
    except ValueError as error:  # of JSON and of decoding
        raise UserError(f"{path} is damaged ({_first_line(error)}). {cure}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Load a JSON file that holds an object. Raises UserError as `read_json`, and for any other value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is damaged (it holds {json_kind(value)}, not an object). "
            "Remove it and run the command that made it again."
        )
    return value


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Values of a file of JSON lines with the numbers of their lines; a last line that a kill has torn is left out.

    The file is read a line at a time.

    Raises:
      UserError: the file can't be read, or another line is not JSON or too long; names the file and the line.
    """
    with open_regular(path) as file:
        number = 0
        while line := file.readline(_MOST_LINE_BYTES + 1):
            number += 1
            if not line.strip():
                continue
            try:
                if len(line) > _MOST_LINE_BYTES:
                    raise ValueError(f"it is longer than {_MOST_LINE_BYTES:,} bytes")
                value = parse_file_json(line)
            except ValueError as error:
                if not line.endswith(b"\n") and len(line) <= _MOST_LINE_BYTES:
                    return  # every whole line ends with a newline
                raise UserError(
                    f"{path}, line {number} is damaged ({_first_line(error)}). "
                    "Remove that line and run the command again."
                ) from None
            yield number, value


def append_json_line(path: Path, value: Any) -> None:
    """Add one value at the end of a file of JSON lines, which is made if there is none.

    A last line that a kill has torn is cut off first.
    """
    append_line(path, json.dumps(value, ensure_ascii=False) + "\n")


def append_line(path: Path, text: str) -> None:
    """Appends, as `append_json_line` does, a line that is written as JSON already and ends with its newline."""
    mend_last_line(path)
    with writing(path), open(path, "ab", buffering=0) as file:
        size = file.tell()
        line = _encoded(text)
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(size)  # a disk that fills takes a part of the line
            raise


def mend_last_line(path: Path) -> None:
    """Prepare a file of JSON lines for more of them: a last line that a kill has torn is cut off.

    A last line that is whole but for its newline gets that. Does nothing where there is no file.

    Raises:
      UserError: the file can't be read or written.
    """
    if not os.path.lexists(path):
        return
    with open_regular(path):  # refused by name, unless it is a file
        pass
    with writing(path), open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start, tail = size, b""
        while start > 0 and b"\n" not in tail:  # from the end, as such files may be large
            start = max(0, start - 65_536)
            file.seek(start)
            tail = file.read(size - start)
        last = tail[tail.rfind(b"\n") + 1 :]
        if not last:
            return
        try:
            parse_file_json(last)
        except ValueError:
            file.truncate(size - len(last))
        else:
            file.write(b"\n")


def json_digest(value: Any) -> str:
    """sha256, in hex, of a JSON value; the order of its names counts for nothing."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def json_kind(value: Any) -> str:
    """What a parsed JSON value is, in words."""
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"the number {text[:20]}... is too large")
    return int(text)


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [inner for each in level for inner in _containers(each)]
        if not level:
            return
    raise ValueError("it nests too deeply")


def _containers(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inner if isinstance(each, (dict, list))]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of readable JSON. NaN and infinities are refused: no other program could read the file."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
