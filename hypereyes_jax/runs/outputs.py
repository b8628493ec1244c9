"""Checks of where results go, before a command spends anything: never over an input, and to a writable place."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import open_regular

_PAGE = b"<!doctype html"
_MOST_LINE_BYTES = 2**28  # a trajectory with its pictures has a few MB


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path] = ()) -> None:
    """Refuse outputs that would replace an input or can't be written. Nothing is created.

    Args:
      outputs: files or directories that the command is about to write.
      inputs: files or directories that it reads. An output may lie in a directory that is read, but may not be one,
        nor a directory around one.

    Raises:
      UserError: names the output and the input it would replace, or what stands in the output's way.
    """
    real_inputs = [(path, Path(os.path.realpath(path))) for path in inputs]
    for output in outputs:
        target = Path(os.path.realpath(output))
        for path, real in real_inputs:
            if target == real or _same(target, real):
                raise UserError(f"{output} would replace the input {path}. Give another --out.")
            if target in real.parents and not target.is_dir():
                raise UserError(f"{output} can't be written: it lies in the way of the input {path}.")
        _check_writable(output)


def check_replaced_directories(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse directories that a command will replace whole, if an input is one of them or lies in one.

    Raises:
      UserError: names the directory and the input.
    """
    real_inputs = [(path, Path(os.path.realpath(path))) for path in inputs]
    for output in outputs:
        target = Path(os.path.realpath(output))
        for path, real in real_inputs:
            if target == real or target in real.parents:
                raise UserError(f"{output} would replace the input {path}. Give another --out.")


def refuse_no_page(output: Path) -> None:
    """Raises UserError if a page of HTML would replace a file that is none: an input, a run's metrics."""
    if output.is_file():
        with open_regular(output) as file:
            begin = file.read(len(_PAGE))
        if begin and begin.lower() != _PAGE:
            raise UserError(f"{output} exists and is not an HTML page, so it is not replaced. Give another --out.")


def refuse_no_lines(output: Path, begin: bytes, what: str) -> None:
    """Raises UserError if a file would be replaced that does not begin as `what` does: an input, or anything else."""
    if output.is_file():
        with open_regular(output) as file:
            there = file.read(len(begin))
        if there and there != begin:
            raise UserError(f"{output} exists and is not {what}, so it is not replaced. Give another name.")


def refuse_no_trajectories(output: Path) -> None:
    """Raises UserError if a trajectory would be added to a file that holds something else, whose end would be lost."""
    if not output.is_file():
        return
    with open_regular(output) as file:
        line = file.readline(_MOST_LINE_BYTES)
    if line and not line.startswith(b'{"stage":') and b'"turns"' not in line:  # the latter of other writers'
        raise UserError(f"{output} exists and is not a trajectory file. Give another --out.")


def _same(a: Path, b: Path) -> bool:
    """Whether two paths are one file, by a hard link or on a file system that ignores case."""
    try:
        return os.path.samefile(a, b)
    except OSError:  # one of them is not there yet
        return False


def _check_writable(output: Path) -> None:
    if output.exists() and not os.access(output, os.W_OK):
        raise UserError(f"can't write {output}: permission denied. Choose a place you may write to.")
    if output.exists() and not output.is_file() and not output.is_dir():
        raise UserError(f"can't write {output}: it exists and is not a regular file. Choose another name.")
    parent = output.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"can't write {output}: {parent} is a file. Choose another place.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"can't write {output}: permission denied in {parent}. Choose a place you may write to.")


def refuse_missing_run(source: Path) -> None:
    """Raises UserError if there is neither a run's directory nor a trajectory file of this name."""
    if not source.exists():
        raise UserError(f"there is no {source}. Give the directory of a run, or a trajectory file.")
