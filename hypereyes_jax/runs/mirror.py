"""A run directory in a bucket: worked on in a folder of this machine, and copied to the bucket on the way.

Of several processes each has a folder of its own, whose files are copied beside the others'. Checkpoints, which they
write together, go to the bucket directly then: `RunDirectory.checkpoints`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorstore

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json_object, write_atomic, write_json
from hypereyes_jax.runs.lock import LOCK
from hypereyes_jax.runs.run_directory import CHECKPOINTS_URL, MIRROR_INDEX, when_opened
from hypereyes_jax.runs.run_directory import CONFIG as RUN_CONFIG
from hypereyes_jax.runs.terminal import visible

SECONDS = 60.0  # between two copies to the bucket
_BYTES_AT_ONCE, _FILES_AT_ONCE = 1 << 30, 32  # on their way to the bucket
COMMITTED = "commit_success.txt"  # Orbax's last file of a checkpoint in a bucket
_OF_THIS_MACHINE = (LOCK, MIRROR_INDEX, CHECKPOINTS_URL)
_UNFINISHED = (".part", ".orbax-checkpoint-tmp")  # of files and checkpoints that have no name yet


@dataclass
class _Index:
    """Files with sizes in bytes and times of change in nanoseconds, and the local folder that wrote them."""

    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    writer: str = ""
    direct: bool = False  # whether checkpoints are written to the bucket directly, and so are none of the files

    @classmethod
    def of(cls, saved: dict[str, Any], where: str) -> _Index:
        try:
            files = {
                str(name): (int(size), int(time_of_change)) for name, (size, time_of_change) in saved["files"].items()
            }
            names_outside = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
            if names_outside:
                raise ValueError(f"it names {names_outside[0]}")
            return cls(files, str(saved["writer"]), bool(saved.get("direct")))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where} is not an index of a run's files ({error}). Choose another --out.") from None

    def to_json(self) -> dict[str, Any]:
        return {"writer": self.writer, "files": self.files, "direct": self.direct}


class RunMirror:
    """A local folder and its copy in a bucket.

    The bucket's index is written after the files it names and before those are deleted that it no longer names, so that
    a kill at any moment leaves a run that can be continued. Only one machine at a time may work on a run: each copy
    begins with a claim in the index, which fails where another machine has made one since, and then nothing is written.
    """

    def __init__(self, url: str, local: Path, process: int = 0, processes: int = 1):
        """
        Args:
          process: this one's number among the `processes` of the run. Each has its own index, of its own files.

        Raises UserError if the address is not valid or can't be reached, or if a single process began the run that
        several would continue: its checkpoints are files of its index.
        """
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise UserError(f"{url} must hold no login: those of buckets come from the environment or a file of keys.")
        self.url, self.local = url.rstrip("/"), local
        self._copying = threading.Lock()
        self._writer = uuid.uuid4().hex
        self._index_name = MIRROR_INDEX if process == 0 else f".mirror-{process}.json"
        with self._reaching():
            self._store = tensorstore.KvStore.open(f"{self.url}/").result()
            read = self._store.read(self._index_name).result()
        self._generation = read.stamp.generation
        several = processes > 1
        if read.state == "missing":
            self._index = _Index(direct=several)
        else:
            self._index = _Index.of(_parsed(read.value), f"{self.url}/{self._index_name}")
        if several and not self._index.direct:
            raise UserError(
                f"{self.url} holds a run of one process, whose checkpoints several can't go on from. Continue it with "
                "one process, or choose another --out."
            )

    @property
    def direct(self) -> bool:
        """Whether checkpoints are written to the bucket directly: if several processes began the run."""
        return self._index.direct

    def fetch(self) -> int:
        """Brings the local folder to what the bucket holds, unless that is a copy of this very folder, which may have
        gone on since. Returns the number of files that were copied.

        Raises UserError if the bucket can't be read.
        """
        mine = self.local / MIRROR_INDEX
        if mine.exists():
            self._writer = _Index.of(read_json_object(mine), str(mine)).writer
            if self._writer == self._index.writer:
                return 0
        if self.local.exists():
            shutil.rmtree(self.local)
        self.copy_here(list(self._index.files))
        for name, (_, time_of_change) in self._index.files.items():
            os.utime(self.local / name, ns=(time_of_change, time_of_change))
        self._keep()
        if self.direct and not self._index.writer:  # the bucket tells of it before the first checkpoint lies there
            self._write_index(self._index.files)
        return len(self._index.files)

    def names(self) -> list[str]:
        """The run's files in the bucket, checkpoints that lie there directly included.

        Raises UserError if the bucket can't be read.
        """
        if not self.direct:
            return sorted(self._index.files)
        with self._reaching():
            return sorted(name.decode() for name in self._store.list().result())

    def copy_here(self, names: Sequence[str]) -> None:
        """Writes these files of the bucket to the local folder.

        Raises UserError if the bucket can't be read or lacks one of them.
        """
        for name in names:
            with self._reaching():
                read = self._store.read(name).result()
            if read.state == "missing":
                raise UserError(f"{self.url}/{name} is missing: the run's copy is damaged. Choose another --out.")
            path = self.local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, read.value)

    def push(self) -> int:
        """Copies what has changed to the bucket, and deletes there what is gone. Returns the number of files copied.

        Raises UserError if the bucket can't be written, or another machine has written the run meanwhile.
        """
        with self._copying:
            files = dict(self._changed_files())
            new = [name for name, stamp in files.items() if self._index.files.get(name) != stamp]
            gone = [name for name in self._index.files if name not in files]
            if not new and not gone:
                return 0
            self._write_index(self._index.files)
            missing = self._write_files(new)
            self._write_index({name: stamp for name, stamp in files.items() if name not in missing})
            with self._reaching():
                for write in [self._store.write(name, None) for name in gone]:
                    write.result()
            return len(new) - len(missing)

    def _write_files(self, names: Sequence[str]) -> set[str]:
        """Copies these files, several at once; returns those that are gone: checkpoints make room for newer ones."""
        missing: set[str] = set()
        pending: list[Any] = []
        size = 0
        with self._reaching():
            for name in names:
                try:
                    data = (self.local / name).read_bytes()
                except FileNotFoundError:
                    missing.add(name)
                    continue
                pending.append(self._store.write(name, data))
                size += len(data)
                if size >= _BYTES_AT_ONCE or len(pending) >= _FILES_AT_ONCE:
                    for write in pending:
                        write.result()
                    pending, size = [], 0
            for write in pending:
                write.result()
        return missing

    def _write_index(self, files: dict[str, tuple[int, int]]) -> None:
        index = _Index(files, self._writer, self.direct)
        with self._reaching():
            text = json.dumps(index.to_json())
            stamp = self._store.write(self._index_name, text, if_equal=self._generation).result()
        if not stamp.generation:
            raise UserError(
                f"another machine has written {self.url} meanwhile. The files of this one are in {self.local}."
            )
        self._generation, self._index = stamp.generation, index
        self._keep()

    def _changed_files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for path in sorted(self.local.rglob("*")):
            parts = path.relative_to(self.local).parts
            if parts[0] in _OF_THIS_MACHINE or any(mark in part for part in parts for mark in _UNFINISHED):
                continue
            with contextlib.suppress(FileNotFoundError):  # a checkpoint that made room for a newer one
                if path.is_file() and not path.is_symlink():
                    status = path.stat()
                    yield "/".join(parts), (status.st_size, status.st_mtime_ns)

    def _keep(self) -> None:
        self.local.mkdir(parents=True, exist_ok=True)
        write_json(self.local / MIRROR_INDEX, _Index(self._index.files, self._writer, self.direct).to_json())
        if self.direct:
            write_atomic(self.local / CHECKPOINTS_URL, self.url.encode())

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:  # TensorStore's, for whatever a service answers
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.url} can't be read or written ({why}). Check the address and your access to it; what this "
                f"machine has made of the run is in {self.local}."
            ) from None


@contextlib.contextmanager
def mirrored(url: str, folder: Path, seconds: float = SECONDS, process: int = 0, processes: int = 1) -> Iterator[Path]:
    """A local directory for the time of the block, that begins as what a bucket holds and is copied there all the time.

    Args:
      folder: of all local copies on this machine.
      seconds: between two copies; the last one is made when the block ends, however it does.
      process, processes: this one's number, and how many work on the run.

    Raises UserError if the bucket can't be read at first, or not be written at last.
    """
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    mirror = RunMirror(url, folder / (f"{name}-{process}" if process else name), process, processes)
    count = mirror.fetch()
    if count and process == 0:
        print(f"continuing from {visible(str(count))} files of {visible(mirror.url)}", file=sys.stderr)
    end = threading.Event()

    def copying() -> None:
        warned = False
        while not end.wait(seconds):
            try:
                mirror.push()
                warned = False
            except UserError as error:  # the run goes on, and the next copy brings what this one did not
                if not warned:
                    print(f"warning: {visible(str(error))}", file=sys.stderr)
                warned = True

    thread = threading.Thread(target=copying, daemon=True, name="mirror")
    thread.start()
    try:
        with when_opened(mirror.local, mirror.push):
            yield mirror.local
    finally:
        end.set()
        thread.join()
        mirror.push()
        if process == 0:
            print(f"the run is in {visible(mirror.url)}", file=sys.stderr)


def fetch_checkpoint(url: str, folder: Path, step: int | None = None) -> None:
    """Copies the settings of a run in a bucket and one of its checkpoints, the newest by default, to `folder`.

    The run is only read, and may go on meanwhile.

    Raises UserError if the bucket can't be read, or holds no run or no such checkpoint.
    """
    mirror = RunMirror(url, folder)
    names = mirror.names()
    # a checkpoint that several processes write counts once its last file is there; others only if the index has them
    mark = COMMITTED if mirror.direct else "cursor/metadata"
    places = {
        int(parts[1]): f"{parts[0]}/{parts[1]}/"
        for parts in (name.split("/", 2) for name in names)
        if len(parts) == 3 and parts[0].endswith("-checkpoints") and parts[1].isdigit() and parts[2] == mark
    }
    if RUN_CONFIG not in names:
        raise UserError(f"{mirror.url} holds no run of `hypereyes sft` or `hypereyes rl`.")
    if not places or (step is not None and step not in places):
        request = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        raise UserError(f"{mirror.url} does not hold {request}; it has those of steps {sorted(places) or 'none'}.")
    place = places[max(places) if step is None else step]
    mirror.copy_here([RUN_CONFIG, *(name for name in names if name.startswith(place))])


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}
