"""Places of a set's files, in whatever folders its archives were unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypereyes_jax.errors import UserError

_LEVELS = 4  # of folders between the one that is given and a file of the set
_ARCHIVES = (".tgz", ".tar.gz", ".tar", ".zip", ".tar.bz2", ".7z", ".rar")


def find_file(root: Path, *patterns: str) -> Path | None:
    """The file that lies least deep below a folder of those that fit the first pattern that any fits, or None.

    Copies spell names in other cases than the archives do.
    """
    for pattern in patterns:
        letters = "".join(f"[{char.lower()}{char.upper()}]" if char.isalpha() else char for char in pattern)
        for level in range(_LEVELS + 1):
            matches = sorted(path for path in root.glob("*/" * level + letters) if path.is_file())
            if matches:
                return matches[0]
    return None


def required_file(root: Path, title: str, *patterns: str) -> Path:
    """A file that `find_file` finds. Raises UserError, which names what may have to be unpacked, if there is none."""
    path = find_file(root, *patterns)
    if path is None:
        cure = unpack_first(root) or "Give the folder its archives were unpacked in."
        raise UserError(f"{root} holds no {patterns[0]}, so it is not {title}. {cure}")
    return path


def photo_folder(root: Path, base: Path, name: str, photos: Sequence[str]) -> Path:
    """The folder of a set's photos: that in `base`, or wherever else below the root one of this name holds some."""
    if any((base / name / photo).exists() for photo in photos):
        return base / name
    for photo in {photos[place] for place in (0, len(photos) // 2, -1)} if photos else ():
        path = find_file(root, f"{name}/{photo}")
        if path is not None:
            return path.parents[photo.count("/")]
    return base / name


def unpack_first(root: Path) -> str:
    """A sentence that names an archive below a folder, which holds what is missing, maybe; "" if there is none."""
    for level in range(3):
        archives = sorted(path for path in root.glob("*/" * level + "*") if path.name.lower().endswith(_ARCHIVES))
        if archives:
            return f"Unpack {archives[0].relative_to(root).as_posix()} there first."
    return ""
