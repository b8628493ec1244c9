"""Pictures of a benchmark wherever they lie: in tar files beside its rows, which are never unpacked, or in folders."""

from __future__ import annotations

import tarfile
import threading
from pathlib import Path
from typing import NamedTuple

from hypereyes_jax.data.sources.media import LIMITS, Media, Picture
from hypereyes_jax.data.sources.question_rows import QuestionRow
from hypereyes_jax.data.sources.types import BadRow
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError

_TARS = 64
_MEMBERS = 200_000  # of all archives together, and of all files
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif"))


class _Member(NamedTuple):
    file: Path  # a tar file, or a picture
    offset: int = 0
    size: int = -1  # of a picture's own file: all of it


class BenchmarkMedia:
    """Opens the pictures of a benchmark: as `Media` does, from the uncompressed tar files below a folder, and from
    whatever folders below it archives were unpacked in.

    A member stands for a path if it is the path's end, or the path is its end: "set/images/level1/1.jpg" is found as
    "level1/1.jpg" in images/level1.tar. Where several fit, the longest common end wins. So it is with files; for them
    the name and one folder are enough, and of several that fit equally well none is taken.
    """

    def __init__(self, root: Path, *, outside: bool = False, private_urls: bool = False, cache: Path | None = None):
        self._root = root
        self._media = Media(root, outside=outside, private_urls=private_urls, cache=cache)
        self._members: _Index | None = None
        self._files: _Index | None = None
        self._lock = threading.Lock()

    def question(self, row: QuestionRow) -> Question:
        """The question with its pictures. Raises BadRow."""
        return row._replace(pictures=tuple(self._resolved(part) for part in row.pictures)).decode(self._media)

    def close(self) -> None:
        self._members = self._files = None

    def _resolved(self, picture: Picture) -> Picture:
        if picture.form != "path":
            return picture
        path = str(picture.value).replace("\\", "/").removeprefix("file://")
        with self._lock:
            if self._members is None:
                self._members = _tar_members(self._root)
        member = _fitting(self._members, path)
        if member is None:
            return self._in_any_folder(picture, path)
        if member.size > LIMITS.max_bytes:
            raise BadRow("broken image", f"the image {picture.value!r} has more than {LIMITS.max_bytes:,} bytes")
        with open(member.file, "rb") as file:
            file.seek(member.offset)
            return Picture(file.read(member.size))

    def _in_any_folder(self, picture: Picture, path: str) -> Picture:
        """The picture by the place of its file, where it does not lie where its path says."""
        try:
            self._media.check(picture)
        except BadRow as error:
            if error.kind != "image missing":
                raise
            with self._lock:
                if self._files is None:
                    self._files = _picture_files(self._root)
            member = _fitting(self._files, path, only=True)
            if member is not None:
                return Picture(str(member.file.relative_to(self._root)))
        return picture


_Index = dict[str, list[tuple[tuple[str, ...], _Member]]]  # last name -> the parts of each path that ends so


def _fitting(index: _Index, path: str, only: bool = False) -> _Member | None:
    """What stands for a path. With `only`, a common end of two parts is enough, and nothing does of several that have
    the longest."""
    parts = tuple(part for part in Path(path).parts if part != ".")
    fitting = [
        (common, member)
        for place, member in index.get(parts[-1] if parts else "", ())
        if (common := _common_end(place, parts)) >= min(len(place), len(parts), 2 if only else len(parts))
    ]
    longest = max((common for common, _ in fitting), default=0)
    best = [member for common, member in fitting if common == longest]
    return best[0] if len(best) == 1 or (best and not only) else None


def _picture_files(root: Path) -> _Index:
    """The pictures below a folder by their last name; none of more than can be kept."""
    index: _Index = {}
    for count, path in enumerate(root.rglob("*")):
        if count > _MEMBERS:
            return {}
        if path.suffix.lower() in _SUFFIXES:
            index.setdefault(path.name, []).append((path.relative_to(root).parts, _Member(path)))
    return index


def _tar_members(root: Path) -> _Index:
    """Members of the tar files below the folder by their last name. Raises UserError for a broken archive."""
    members: _Index = {}
    count = 0
    for path in sorted(root.rglob("*.tar"))[:_TARS]:
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    count += 1
                    if count > _MEMBERS:
                        raise UserError(f"the tar files below {root} have more than {_MEMBERS:,} members. Unpack them.")
                    parts = tuple(part for part in Path(member.name).parts if part != ".")
                    if member.isfile() and parts:
                        member_place = _Member(path, member.offset_data, member.size)
                        members.setdefault(parts[-1], []).append((parts, member_place))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(
                f"{path} is not a whole tar file ({error}). Download it again, or unpack it and remove it."
            ) from None
    return members


def _common_end(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    count = 0
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other:
            break
        count += 1
    return count
