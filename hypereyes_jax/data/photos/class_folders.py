"""Photos in a folder a class, as most sets of one's own lie, whatever lies around these folders."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

from hypereyes_jax.data.photos.locate import unpack_first
from hypereyes_jax.data.photos.types import Photo, PhotoSet
from hypereyes_jax.data.sources.splits import split_word
from hypereyes_jax.errors import UserError

_SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif"))
_OTHER_FORMATS = frozenset((".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl"))
_LEVELS = 6  # of folders below the one that is given
_LICENCES = ("LICENSE", "LICENCE", "COPYING")
_NUMBER = re.compile(
    r"^(?:\d+[._-]|n\d{8}[._-]?)(?=.)"
)  # "017.Cardinal", and the ids of ImageNet: "n02085620-Chihuahua"


class _Folder(NamedTuple):
    """A folder that holds photos itself."""

    parts: tuple[str, ...]  # its path below the set
    photos: tuple[Path, ...]


def folders(root: Path) -> PhotoSet:
    """Any folder with a folder a class; names are those of the folders.

    Splits may be folders above or below the classes', under any of the words that `datasets` knows. What is the same
    for all photos, a folder around everything or one in each class, is passed over.

    Raises UserError if there are none.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}. Give one with a folder a class.")
    unread: Counter[str] = Counter()
    photos: list[Photo] = []
    spellings: dict[str, str] = {}  # folders of one name but for its case are of one class
    places: dict[str, set[Path]] = {}
    for label, split, paths in _classes(list(_with_photos(root, (), unread, set()))):
        name = _plain_name(label)
        name = spellings.setdefault(name.casefold(), name)
        photos += (Photo(path, name, split) for path in paths)
        places.setdefault(name, set()).update(path.parent for path in paths if not split)
    if not photos:
        cure = unpack_first(root) or "Give a folder that has a folder a class."
        others = f" in a format that is read, only {', '.join(sorted(unread))}" if unread else ""
        raise UserError(f"{root} has no folder with photos in it{others}. {cure}")
    formats = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
    note = f"photos in other formats are left out ({formats}): convert them to JPEG or PNG"
    notes = [note] if unread else []
    several = {name: sorted(folders) for name, folders in places.items() if len({each.parent for each in folders}) > 1}
    if several:
        name, (one, other, *_) = next(iter(several.items()))
        notes.append(
            f"{len(several)} of {len(places)} classes have photos in several folders, such as {name!r} in "
            f"{one.relative_to(root)} and {other.relative_to(root)}: these are taken for one class"
        )
    return PhotoSet(root.name, "class", _licence(root), tuple(photos), notes=tuple(notes))


def _with_photos(folder: Path, parts: tuple[str, ...], unread: Counter[str], above: Set[str]) -> Iterator[_Folder]:
    """The folders below one that hold photos; counts files of other formats by their suffix.

    above: the folders that this one is in, which a link in it may lead to again.
    """
    photos = []
    here = os.path.realpath(folder)
    if here in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__MACOSX":  # what programs leave beside photos
            continue
        suffix = path.suffix.lower()
        if path.is_dir():
            if len(parts) < _LEVELS:
                yield from _with_photos(path, (*parts, path.name), unread, above | {here})
        elif suffix in _SUFFIXES:
            photos.append(path)
        elif suffix in _OTHER_FORMATS and parts:
            unread[suffix] += 1
    if photos and parts:
        yield _Folder(parts, tuple(photos))


def _classes(holders: list[_Folder]) -> Iterator[tuple[str, str, tuple[Path, ...]]]:
    """(class, split, photos) of folders that hold photos."""
    while len(holders) > 1 and min(len(each.parts) for each in holders) > 1:
        if _is_around({each.parts[0] for each in holders}):
            holders = [each._replace(parts=each.parts[1:]) for each in holders]
        elif _is_around({each.parts[-1] for each in holders}):
            holders = [each._replace(parts=each.parts[:-1]) for each in holders]
        else:
            break
    split_above = any(len(each.parts) > 1 and split_word(each.parts[0]) for each in holders)
    for each in holders:
        *above, label = each.parts
        if split_above and not (above and split_word(above[0])):
            continue  # pictures beside the splits, or test photos without classes
        split = split_word(above[0]) if above else ""
        if above and not split and split_word(label):
            split, label = split_word(label), above[-1]
        yield label, {"validation": "val"}.get(split, split), each.photos


def _is_around(names: set[str]) -> bool:
    """Whether folders of these names tell no photo from another: one name, which is no split's."""
    return len(names) == 1 and not any(map(split_word, names))


def _plain_name(folder: str) -> str:
    """A class as one says it, without the number that puts folders in order."""
    return _NUMBER.sub("", unicodedata.normalize("NFC", folder), count=1).replace("_", " ").strip()


def _licence(root: Path) -> str:
    """The first line of the folder's licence."""
    for name in _LICENCES:
        for path in sorted(root.glob(f"{name}*")):
            if path.is_file():
                lines = path.read_text(errors="replace").strip().splitlines()
                return lines[0].strip() if lines else "not stated"
    return "not stated"
