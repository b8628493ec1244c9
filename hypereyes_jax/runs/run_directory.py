"""A run's directory: its configuration, its metrics, and files that are either whole or absent.

    run/
      config.json       the command, every setting, digests of its inputs, versions, git revision, and the run's id
      objects.json      a user's own parts of it, with the hashes of their source
      starts.jsonl      a line each time it was started or continued: versions, git revision, settings that now differ
      metrics.json      the results (`StageSummary` rows and what a command adds)
      metrics.jsonl     one line a step: {"step": 3, "time": ..., "run": ..., "rl/accuracy": 0.5, ...}
      tensorboard/      the same series
      .lock             which process works in it (`runs.lock`)
      .checkpoints-url  where its checkpoints lie, if not here: in a bucket that several processes write to

One process works in it at a time. A directory in which work was done with other settings is refused, not mixed, and so
is one whose config.json is lost, or that holds somebody else's files of the names that the command writes; one in which
a command failed before it did any work takes the corrected command, except where several processes write to a bucket:
the run that opened it first has it.

What later work builds on (checkpoints, the selection, metrics, results of evaluations) carries the run's id, so that a
file that was copied from another run is refused, too. Models carry none: `runs.written_models` knows them by content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import mend_last_line, read_file, read_json_object, remove_dead_drafts, write_json, writing
from hypereyes_jax.logins import without_login
from hypereyes_jax.runs.content import input_digests
from hypereyes_jax.runs.lock import LOCK, DirectoryLock
from hypereyes_jax.runs.stop import StopRequest
from hypereyes_jax.runs.tracking import TrackingConfig

# What decides a run's numbers; a report without these versions can't be repeated.
_PACKAGES = (
    "hypereyes-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorstore",
    "libtpu",
    "jax-cuda13-plugin",
    "grain",
    "transformers",
    "numpy",
    "pillow",
)
CONFIG, STARTS, OBJECTS = "config.json", "starts.jsonl", "objects.json"
CHECKPOINTS_URL = ".checkpoints-url"
MIRROR_INDEX = ".mirror.json"  # in a bucket, what it holds, written last; beside the local files, what was copied last
# What only a run leaves. A directory that holds one of these and no config.json has lost it.
_OF_A_RUN = ("metrics.json", "metrics.jsonl", "*-checkpoints")
# what a directory holds in which nothing has been done yet
_NO_WORK = frozenset({CONFIG, STARTS, OBJECTS, LOCK, CHECKPOINTS_URL, MIRROR_INDEX})

# What is called when a run directory is opened, and at which path.
_ON_OPENING: ContextVar[tuple[Path, Callable[[], object]] | None] = ContextVar("on opening", default=None)


@contextlib.contextmanager
def when_opened(path: Path, call: Callable[[], object]) -> Iterator[None]:
    """Calls `call`, within the block, as soon as a run directory is opened at that path and holds its settings.

    A bucket must have the settings before a checkpoint that is written there directly: without them nobody can go on.
    """
    token = _ON_OPENING.set((path, call))
    try:
        yield
    finally:
        _ON_OPENING.reset(token)


class RunDirectory:
    """An open run directory. Make one with `RunDirectory.open`; `close` it, or let the end of the process do so."""

    def __init__(
        self,
        path: Path,
        tracking: TrackingConfig = TrackingConfig(),  # noqa: B008 - frozen
        start: Mapping[str, Any] | None = None,
        lock: DirectoryLock | None = None,
        stop: StopRequest | None = None,
        run: str = "",
    ):
        self.path = path
        self.run = run  # the id that its config.json gives it, and that its results carry
        self.stop = stop or StopRequest()  # whether the run was asked to end before its last step
        self.tracking = tracking  # who else keeps the scalars
        self.start = start or {}  # versions and git revision, as this start's line of `starts.jsonl`
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path,
        command: str,
        config: Any,
        *,
        may_differ: frozenset[str] = frozenset(),
        inputs: Mapping[str, Path | None] | None = None,
        devices: str | None = None,
        tracking: TrackingConfig = TrackingConfig(),  # noqa: B008 - frozen
        stop: StopRequest | None = None,
        writes: Sequence[str] = (),
    ) -> RunDirectory:
        """Create the directory, or continue in it if its work was done by the same command with the same settings.

        What a killed process left half-written in it is removed. Of several processes the first calls this. Call it
        when all that can be checked has been: what was wrong before leaves no directory behind.

        Args:
          config: a (frozen) dataclass; saved as JSON.
          may_differ: names of fields that change no number made so far and may differ on continuing (`out`,
            `sizes.slots`).
          inputs: paths of the data and models it reads, by the names of their fields. They are compared by content: the
            same data may lie elsewhere, and other data under the same name are refused.
          devices: what it runs on, to be saved.
          tracking: who else keeps the scalars.
          stop: how it is asked to end; None = it is not.
          writes: names (patterns) of what the command makes beside metrics and checkpoints. Where no run was begun,
            files of these names are somebody else's, and would be replaced or taken for its own.

        Raises:
          UserError: another process works in it, it holds another run or files that `writes` names, an input can't be
            read, or it can't be written.
        """
        settings = to_jsonable(config)
        input_paths: dict[str, Path] = {name: where for name, where in (inputs or {}).items() if where is not None}
        digests = input_digests(input_paths)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock.acquire(path, command)
        try:
            run, start = cls._start(path, command, settings, digests, may_differ, devices, writes)
            if (awaited := _ON_OPENING.get()) is not None and awaited[0] == path:
                awaited[1]()
        except BaseException:
            lock.release()
            raise
        return cls(path, tracking, start, lock, stop, run)

    @staticmethod
    def _start(
        path: Path,
        command: str,
        settings: dict[str, Any],
        digests: dict[str, str],
        may_differ: frozenset[str],
        devices: str | None,
        writes: Sequence[str],
    ) -> tuple[str, dict[str, Any]]:
        """Note a start in a directory that is locked; returns the run's id and the provenance of the start."""
        config_file = path / CONFIG
        start = provenance() | ({"devices": devices} if devices else {})
        different: dict[str, Any] = {}
        run = uuid.uuid4().hex
        # Checkpoints that several processes write to a bucket are not seen here. Their run's settings are.
        worked = work_was_done(path) or (os.path.lexists(path / CHECKPOINTS_URL) and os.path.lexists(config_file))
        if worked and os.path.lexists(config_file):
            before = read_json_object(config_file)
            different = _differences(config_file, before, command, settings, digests, may_differ)
            run = _id_of(config_file, before)
        else:
            _refuse_others(path, command, writes)
            write_json(config_file, {"command": command, "run": run, "config": settings, "inputs": digests, **start})
        remove_dead_drafts(path)
        mend_last_line(path / STARTS)
        with writing(path / STARTS), open(path / STARTS, "a", encoding="utf-8") as file:
            file.write(json.dumps({**start, "different": different}) + "\n")
        return run, start

    def file(self, name: str) -> Path:
        return self.path / name

    def part(self, start: int) -> Path:
        """Where a part of the results belongs, from the item of that number on, in a folder that is made.

        Its name holds the run's id: a part that was copied from another run is nobody's.
        """
        folder = self.path / "parts"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        return folder / f"{self.run[:12]}-{start:06d}.jsonl"

    def checkpoints(self, name: str) -> Path | str:
        """Where checkpoints of that name belong: a directory here, or the URL of one in a bucket.

        Raises UserError if the file that has the URL holds something else.
        """
        elsewhere = self.path / CHECKPOINTS_URL
        if not os.path.lexists(elsewhere):
            return self.path / name
        url = read_file(elsewhere).decode(errors="replace")
        if not url.startswith("gs://"):
            raise UserError(f"{elsewhere} is damaged: it must hold the gs:// address of the checkpoints. Put it back.")
        return f"{url}/{name}"

    def refuse_other_run(self, path: Path | str, run: object) -> None:
        """Raises UserError for a file or folder of the directory that carries another run's id.

        One that carries none was put there by hand.
        """
        refuse_other_run(path, run, self.run, self.file(CONFIG))

    def close(self) -> None:
        """Let another process work in the directory."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def refuse_other_run(path: Path | str, run: object, expected: str, config_file: Path) -> None:
    """Raises UserError for a file (or a line of one) that carries the id of another run than `config_file` describes.

    Where either has no id, nothing can be told.
    """
    if expected and run not in ("", expected):
        raise UserError(
            f"{path} was written by another run than the one that {config_file} describes. Put this run's own back, or "
            "choose another directory."
        )


def to_jsonable(value: Any) -> Any:
    """A configuration as plain JSON values: dataclasses as objects, paths and enums as text, tuples as lists.

    Logins in URLs are left out: what is printed and kept holds none.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(to_jsonable(v) for v in value)
    if isinstance(value, str):  # a StrEnum is one, too
        return without_login(value) if "://" in value else value
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a configuration can't hold a {type(value).__name__}: {value!r}")


def settings_text(config: Any) -> str:
    """A configuration for the terminal: a line for each of its parts, plain values first."""

    def words(values: dict[str, Any], prefix: str = "") -> list[str]:
        pairs = []
        for name, value in values.items():
            if isinstance(value, dict):
                pairs += words(value, f"{prefix}{name}.")
            else:
                pairs.append(f"{prefix}{name}={value if isinstance(value, str) else json.dumps(value)}")
        return pairs

    settings = to_jsonable(config)
    plain = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    parts = {name: value for name, value in settings.items() if isinstance(value, dict)}
    lines = [" ".join(words(plain)), *(f"{name}: {' '.join(words(value))}" for name, value in parts.items())]
    return "\n".join(textwrap.fill(line, 118, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def provenance() -> dict[str, Any]:
    """Versions, git revision and machine: what else it takes to repeat a run."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_revision(),
        "versions": versions,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def git_revision() -> str | None:
    """Revision of the checkout this package runs from, `+dirty` if it has changes; None when installed without git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        # bounded, because a network file system may hang; a hung `git` must not stop a training run from starting
        result = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return result.stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return revision + ("+dirty" if git("status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def work_was_done(path: Path) -> bool:
    """Whether a run has left more in its directory than what each start notes."""
    with writing(path):
        names = set(os.listdir(path))
    return any(name not in _NO_WORK and not name.endswith(".part") for name in names)


def _refuse_others(path: Path, command: str, writes: Sequence[str]) -> None:
    """Raises UserError if a directory in which no work was done holds what a run would replace or go on with."""
    others = [each for name in (*_OF_A_RUN, *writes) for each in path.glob(name)]
    if others:
        raise UserError(
            f"{path} holds {others[0].name}, which `hypereyes {command}` would replace, and its {CONFIG} is missing, "
            f"so nobody can tell how that was made. Put {CONFIG} back, or choose another directory."
        )
    if os.path.lexists(path / CONFIG):
        refuse_others_config(path / CONFIG, read_json_object(path / CONFIG))


def refuse_others_config(path: Path, content: Mapping[str, Any]) -> None:
    """Raises UserError for a config.json that no run has written, such as a model's."""
    if not isinstance(content.get("command"), str):
        raise UserError(f"{path} is not that of a run, but of a model or something else. Choose another directory.")


def _id_of(path: Path, before: Mapping[str, Any]) -> str:
    run = before.get("run", "")  # of runs that were begun before runs had one
    if not isinstance(run, str):
        raise UserError(f"{path} is damaged ('run' must be a string). Choose another directory.")
    return run


def _differences(
    path: Path,
    before: dict[str, Any],
    command: str,
    settings: dict[str, Any],
    digests: dict[str, str],
    may_differ: frozenset[str],
) -> dict[str, Any]:
    """What differs from the settings a run was started with, of what may. Raises UserError if anything else does."""
    refuse_others_config(path, before)
    if before.get("command") != command:
        raise UserError(
            f"{path.parent} holds a run of `{before.get('command')}`. Choose another directory, or remove it."
        )
    old_settings, old_digests = before.get("config", {}), before.get("inputs", {})
    if not isinstance(old_settings, dict) or not isinstance(old_digests, dict):
        raise UserError(f"{path} is damaged ('config' and 'inputs' must be objects). Choose another directory.")
    old, new = _leaves(old_settings), _leaves(settings)
    names = [n for n in sorted({*old, *new}) if old.get(n) != new.get(n)]
    by_content = {n for n in digests if n in old_digests}
    other_content = [n for n in sorted(by_content) if old_digests[n] != digests[n]]
    if other_content:
        changes = "; ".join(f"{n} ({new.get(n)})" for n in other_content)
        raise UserError(
            f"{path.parent} was started with other data: the content of {changes} is not what it was. "
            "Use the same data to continue, or another directory to start over."
        )
    free = may_differ | by_content
    names_refused = [n for n in names if not any(n == each or n.startswith(f"{each}.") for each in free)]
    if names_refused:
        changes = "; ".join(f"{n} was {json.dumps(old.get(n))}, is {json.dumps(new.get(n))}" for n in names_refused)
        raise UserError(
            f"{path.parent} was started with other settings ({changes}). "
            "Use the same settings to continue, or another directory to start over."
        )
    return {n: new.get(n) for n in names}


def _leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names: `sizes.learner.remat`."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves
