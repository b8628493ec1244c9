"""Reads MATLAB files of version 5 that somebody else made. scipy crashes on some that are damaged, so it runs apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypereyes_jax.apart import ApartError, run_apart
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular, unreadable

_SECONDS = 60  # of computing; the largest list of a photo set takes some
_MEMORY = 2 << 30  # bytes
_HDF5 = b"\x89HDF\r\n\x1a\n"  # at the start, or behind MATLAB's own head of 512 bytes


def read_mat(path: Path) -> dict[str, list[Any]]:
    """The arrays of a file as flat lists of numbers, texts and, for rows of a struct, dictionaries of such lists.

    Raises UserError.
    """
    try:
        refuse_irregular(path)
        with open(path, "rb") as file:
            head = file.read(520)
    except FileNotFoundError:
        raise UserError(f"there is no {path}. Unpack the whole set.") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if head.startswith(b"MATLAB 7.3") or _HDF5 in (head[:8], head[512:]):
        raise UserError(
            f"{path} is a MATLAB file of version 7.3, which the set's is not. Download the published one, or save this "
            "one as version 7 (`save(..., '-v7')`)."
        )
    try:
        arrays: dict[str, list[Any]] = run_apart(
            __file__, "arrays", os.fspath(path.resolve()), seconds=_SECONDS, memory=_MEMORY
        )
    except ApartError as error:
        raise UserError(f"{path} is not a MATLAB file of version 5 ({error}). Download it again.") from None
    return arrays


def prepare() -> None:
    """Imports what `arrays` needs, before limits are set."""
    import scipy.io  # noqa: F401 - the import is the point


def arrays(path: str) -> dict[str, list[Any]]:
    """Does what `read_mat` does. Raises whatever scipy does."""
    from scipy.io import loadmat

    return {name: plain(value) for name, value in loadmat(path).items() if not name.startswith("__")}


def plain(array: Any) -> list[Any]:
    """An array as a flat list, the arrays within it, too."""
    import numpy as np

    if array.dtype.names:  # rows of a struct
        return [{name: plain(np.asarray(row[name])) for name in array.dtype.names} for row in array.ravel()]
    return [plain(each) if isinstance(each, np.ndarray) else each for each in array.ravel().tolist()]
