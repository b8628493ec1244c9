"""`--out` in a bucket (gs://, s3://): the command works on a local directory, which is copied there on the way."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import tempfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.compile_cache import default_folder

SCHEMES = ("gs", "s3")
# Commands whose --out is a run directory; that of the others is a file, or is read by the next command from a path.
RUNS = frozenset("quickstart sft rl eval make-teacher pretrain-world collect curate study synth export".split())


def refuse_urls(settings: Any, command: str) -> None:
    """Raises UserError for a URL in place of a path, at any depth: it would be a local directory of the name `gs:`.

    The run directory that a command writes may lie in a bucket, and the one that `export` reads.
    """
    names = [name for name, commands in (("out", RUNS), ("run", ("export",))) if command in commands]
    in_bucket = [name for name in names if bucket_url(getattr(settings, name, None)) is not None]
    _refuse_urls(replace(settings, **dict.fromkeys(in_bucket, Path())) if in_bucket else settings)


@contextlib.contextmanager
def local_out(settings: Any) -> Iterator[Any]:
    """The settings with a local directory for a run directory in a bucket, which is there what it is here afterwards.

    Several processes join here, since each has a directory of its own.

    Raises UserError if the bucket can't be read or written, or is one that several processes can't write together.
    """
    url = bucket_url(getattr(settings, "out", None))
    if url is None:
        yield settings
        return
    from hypereyes_jax.launch.initialize import join
    from hypereyes_jax.runs.mirror import mirrored
    from hypereyes_jax.runs.stop import RunStopped

    process, processes = 0, 1
    distributed = getattr(settings, "distributed", None)
    if distributed is not None and distributed.join:
        _check_shared(url)
        process, processes = join(distributed)
    try:
        with mirrored(url, default_folder().parent / "runs", process=process, processes=processes) as local:
            yield replace(settings, out=local)
    except RunStopped:  # in all processes alike
        _wait_for_copies(processes)
        raise
    _wait_for_copies(processes)


@contextlib.contextmanager
def local_run(run: Path, step: int | None) -> Iterator[Path]:
    """A run directory, or for the time of the block a copy of its settings and one checkpoint if it lies in a bucket.

    Raises UserError if the bucket can't be read, or holds no run or no checkpoint of that step.
    """
    url = bucket_url(run)
    if url is None:
        yield run
        return
    from hypereyes_jax.runs.mirror import fetch_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        fetch_checkpoint(url, Path(folder) / "run", step)
        yield Path(folder) / "run"


def _wait_for_copies(processes: int) -> None:
    """Waits until all processes have copied their files: one that left would take the others along after a minute."""
    if processes > 1:
        from hypereyes_jax.launch.initialize import wait_for_others

        wait_for_others("run copied")


def _check_shared(url: str) -> None:
    """Raises UserError if several processes can't write their checkpoints to the bucket together."""
    if not url.startswith("gs://"):
        raise UserError(
            f"--out {url}: several processes write their checkpoints to gs:// or to a path, since other buckets can't "
            f"make one whole at once. {_MOUNT}"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"--out {url}: several processes write their checkpoints to gs:// through gcsfs. "
            "Run `pip install 'hypereyes-jax[remote]'` on every host."
        )


_MOUNT = "Mount that storage on every host, and give the path below the mount (docs/clusters.md, Storage)."


def bucket_url(path: object) -> str | None:
    """The URL of a bucket that was read as a path; None for anything else."""
    url = _url(path)
    return url if url is not None and url.partition("://")[0].lower() in SCHEMES else None


def _url(path: object) -> str | None:
    if not isinstance(path, Path) or not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        return None
    return str(path).replace(":/", "://", 1)  # a Path has one of the slashes


def _refuse_urls(settings: Any) -> None:
    if is_dataclass(settings):
        for field in fields(settings):
            _refuse_urls(getattr(settings, field.name))
    elif isinstance(settings, tuple):
        for value in settings:
            _refuse_urls(value)
    elif (url := _url(settings)) is not None:
        raise UserError(f"{url} is a URL, where a path is needed. {_MOUNT}")
