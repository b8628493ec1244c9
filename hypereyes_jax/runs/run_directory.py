"""A run's directory: its configuration, its metrics, and files that are either whole or absent.

    run/
      config.json       the command, every setting, versions and git revision
      starts.jsonl      a line each time it was started or continued: versions, git revision, settings that now differ
      metrics.json      the results (`StageSummary` rows and what a command adds)
      metrics.jsonl     one line a step: {"step": 3, "time": ..., "rl/accuracy": 0.5, ...}
      tensorboard/      the same series

A directory made with other settings is refused, not mixed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.records import read_metrics
from hypereyes_jax.files import read_json, remove_dead_drafts, write_atomic, write_json, writing

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


class RunDirectory:
    """An open run directory. Make one with `RunDirectory.open`."""

    def __init__(self, path: Path, wandb: str = "", start: Mapping[str, Any] | None = None):
        self.path = path
        self.wandb = wandb  # Weights & Biases project that scalars also go to; none if empty
        self.start = start or {}  # versions and git revision, as this start's line of `starts.jsonl`

    @classmethod
    def open(
        cls,
        path: Path,
        command: str,
        config: Any,
        *,
        may_differ: frozenset[str] = frozenset(),
        devices: str | None = None,
    ) -> RunDirectory:
        """Create the directory, or continue in it if it was made by the same command with the same settings.

        What a killed process left half-written in it is removed. Of several processes the first calls this.

        Args:
          config: a (frozen) dataclass; saved as JSON.
          may_differ: names of fields that do not change the result and may differ on continuing (`out`, `scale.slots`).
          devices: what it runs on, to be saved.

        Raises:
          UserError: the directory holds another run, or can't be written.
        """
        settings = to_jsonable(config)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        saved = path / "config.json"
        start = provenance() | ({"devices": devices} if devices else {})
        different: dict[str, Any] = {}
        if saved.exists():
            different = _differences(saved, read_json(saved), command, settings, may_differ)
        else:
            write_json(saved, {"command": command, "config": settings, **start})
        remove_dead_drafts(path)
        starts = path / "starts.jsonl"
        earlier = starts.read_text() if starts.exists() else ""
        write_atomic(starts, earlier + json.dumps({**start, "different": different}) + "\n")
        return cls(path, start=start)

    def file(self, name: str) -> Path:
        return self.path / name


class MetricsWriter:
    """Scalars of a phase, to `metrics.jsonl` and TensorBoard, a line a step; to Weights & Biases if the run says so.

    A run that is continued from a checkpoint repeats the steps after it; `first_step` drops what those wrote before, so
    that each step appears once.
    """

    def __init__(self, run: RunDirectory, phase: str, first_step: int = 0):
        from tensorboardX import SummaryWriter  # a second to import; commands that write no metrics do without

        self._phase = phase
        self._path = run.file("metrics.jsonl")
        _drop_steps(self._path, phase, first_step)
        with writing(self._path):
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
            self._board = SummaryWriter(str(run.file("tensorboard") / phase), purge_step=first_step)
        self._wandb = _wandb_run(run, phase) if run.wandb else None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one step. Keys get the phase as prefix: `accuracy` of phase `rl` is saved as `rl/accuracy`."""
        scalars = {f"{self._phase}/{name}": float(value) for name, value in values.items()}
        line = {"phase": self._phase, "step": step, "time": time.time(), **{k: _finite(v) for k, v in scalars.items()}}
        with writing(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)

    def close(self) -> None:
        if self._wandb is not None:
            self._wandb.finish()
        with writing(self._path):
            self._file.close()
            self._board.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def to_jsonable(value: Any) -> Any:
    """A configuration as plain JSON values: dataclasses as objects, paths and enums as text, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(to_jsonable(v) for v in value)
    if isinstance(value, (str, int, float, bool)) or value is None:  # a StrEnum is a str
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a configuration can't hold a {type(value).__name__}: {value!r}")


def settings_text(config: Any) -> str:
    """A configuration for the terminal: a line for each of its parts, plain values first."""

    def words(values: dict[str, Any], prefix: str = "") -> list[str]:
        found = []
        for name, value in values.items():
            if isinstance(value, dict):
                found += words(value, f"{prefix}{name}.")
            else:
                found.append(f"{prefix}{name}={value if isinstance(value, str) else json.dumps(value)}")
        return found

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
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return revision + ("+dirty" if git("status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def wandb_package() -> Any:
    """The module `wandb`. Raises UserError if it is not installed."""
    try:
        import wandb
    except ImportError:
        raise UserError("`--wandb` needs the package: pip install 'hypereyes-jax[wandb]'") from None
    return wandb


def _wandb_run(run: RunDirectory, phase: str) -> Any:
    """The phase's run at Weights & Biases, the same one when it is continued."""
    wandb = wandb_package()
    key = hashlib.sha256(f"{run.path.resolve()} {phase}".encode()).hexdigest()[:16]
    settings = read_json(run.file("config.json"))
    name = f"{run.path.name} {phase}"
    return wandb.init(project=run.wandb, id=key, name=name, config=settings, dir=str(run.path), resume="allow")


def _finite(value: float) -> float | None:
    return value if value - value == 0 else None  # JSON has no NaN or infinity


def _drop_steps(path: Path, phase: str, first_step: int) -> None:
    if not path.exists():
        return
    rows = read_metrics(path)
    kept = [row for row in rows if row.get("phase") != phase or row["step"] < first_step]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))


def _differences(
    path: Path, before: dict[str, Any], command: str, settings: dict[str, Any], may_differ: frozenset[str]
) -> dict[str, Any]:
    """What differs from the settings a run was started with, of what may. Raises UserError if anything else does."""
    if before.get("command") != command:
        raise UserError(
            f"{path.parent} holds a run of `{before.get('command')}`. Choose another directory, or remove it."
        )
    old, new = _leaves(before.get("config", {})), _leaves(settings)
    names = [n for n in sorted({*old, *new}) if old.get(n) != new.get(n)]
    refused = [n for n in names if not any(n == free or n.startswith(f"{free}.") for free in may_differ)]
    if refused:
        changes = "; ".join(f"{n} was {json.dumps(old.get(n))}, is {json.dumps(new.get(n))}" for n in refused)
        raise UserError(
            f"{path.parent} was started with other settings ({changes}). "
            "Use the same settings to continue, or another directory to start anew."
        )
    return {n: new.get(n) for n in names}


def _leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names: `scale.learner.remat`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
