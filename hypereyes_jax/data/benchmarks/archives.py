"""Pictures that a benchmark ships in tar files beside its rows: read where they stand, never unpacked."""

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
_MEMBERS = 200_000  # of all archives together


class _Member(NamedTuple):
    tar: Path
    offset: int
    size: int


class BenchmarkMedia:
    """Opens the pictures of a benchmark: as `Media` does, and from the uncompressed tar files below a folder.

    A member stands for a path if it is the path's end, or the path is its end: "set/images/level1/1.jpg" is found as
    "level1/1.jpg" in images/level1.tar. Where several fit, the longest common end wins.
    """

    def __init__(self, root: Path, *, outside: bool = False, private_urls: bool = False, cache: Path | None = None):
        self._root = root
        self._media = Media(root, outside=outside, private_urls=private_urls, cache=cache)
        self._members: dict[str, list[tuple[tuple[str, ...], _Member]]] | None = None
        self._lock = threading.Lock()

    def question(self, row: QuestionRow) -> Question:
        """The question with its pictures. Raises BadRow."""
        return row._replace(pictures=tuple(self._resolved(part) for part in row.pictures)).decode(self._media)

    def close(self) -> None:
        self._members = None

    def _resolved(self, picture: Picture) -> Picture:
        if picture.form != "path":
            return picture
        member = self._find(str(picture.value))
        if member is None:
            return picture
        if member.size > LIMITS.max_bytes:
            raise BadRow("broken image", f"the image {picture.value!r} has more than {LIMITS.max_bytes:,} bytes")
        with open(member.tar, "rb") as file:
            file.seek(member.offset)
            return Picture(file.read(member.size))

    def _find(self, path: str) -> _Member | None:
        parts = Path(path.removeprefix("file://")).parts
        with self._lock:
            if self._members is None:
                self._members = _index(self._root)
        fitting = [
            (common, member)
            for place, member in self._members.get(parts[-1] if parts else "", ())
            if (common := _common_end(place, parts)) == min(len(place), len(parts))
        ]
        return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _index(root: Path) -> dict[str, list[tuple[tuple[str, ...], _Member]]]:
    """Members of the tar files below the folder by their last name. Raises UserError for a broken archive."""
    members: dict[str, list[tuple[tuple[str, ...], _Member]]] = {}
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
