"""Pictures as rows name them: bytes, base64, a path beside the file, a URL, a PIL image. Opened when needed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
from PIL import Image

from hypereyes_jax.data.sources.cache import cache_folder
from hypereyes_jax.data.sources.types import BadRow
from hypereyes_jax.env.media.images import (
    ImageError,
    ImageLimits,
    decode_image,
    displayed_size,
    encode_image,
    read_base64,
    to_rgb,
    upright,
)
from hypereyes_jax.env.media.video import Frames, read_video, video_shape
from hypereyes_jax.env.web.urls import UrlError, UrlGuard
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import write_atomic

LIMITS = ImageLimits(trailing_data=True)  # a user's own files: some phones write data behind the image's end

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")  # base64 of PNG, JPEG, GIF and WebP
_START_BYTES = tuple(start.encode() for start in ("data:image/", *_STARTS))
_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".jfif"))
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".7z", ".rar")
T = TypeVar("T")
_KNOWN_SIZES = 100_000  # of files, kept


@dataclass(frozen=True)
class Picture:
    """A picture that is not opened yet."""

    value: bytes | str | Image.Image = field(repr=False)  # bytes, data URI or base64, path, URL, or the image itself

    @property
    def form(self) -> str:
        """ "bytes", "base64", "url", "path" or "image"."""
        if isinstance(self.value, bytes):
            return "bytes"
        if isinstance(self.value, Image.Image):
            return "image"
        head = self.value[:64].lstrip()
        if head[:5].lower() == "data:":
            return "base64"
        if re.match(r"https?://", head, re.IGNORECASE):
            return "url"
        if self.value.startswith(_STARTS) and Path(self.value[-8:]).suffix.lower() not in _SUFFIXES:
            return "base64"
        if len(self.value) > 256 and _BASE64.fullmatch(self.value):
            return "base64"
        return "path"


@dataclass(frozen=True)
class Clip:
    """A video that is not opened yet, named as pictures are."""

    file: Picture


def is_picture_file(data: bytes) -> bool:
    """Whether bytes begin as those of a picture's file."""
    return data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def names_picture(text: str) -> bool:
    """Whether a text is a picture as base64 or a data URI, or a path or URL that ends as those of pictures do."""
    text = text.strip()
    if text[:11].lower() == "data:image/" or (len(text) > 256 and text.startswith(_STARTS)):
        return True
    return len(text) < 4096 and "\n" not in text and Path(text.partition("?")[0]).suffix.lower() in _SUFFIXES


def picture_of_name(path: Path) -> str | None:
    """The name of a picture that lies beside a file and is called as that is; None without one."""
    names = (path.with_suffix(suffix) for suffix in sorted(_SUFFIXES)) if path.name else ()
    return next((name.name for name in names if name.is_file()), None)


UNREAD = Picture(b"")  # bytes that a scan of texts left on the disk


def picture(value: Any) -> Picture:
    """A picture from any of the ways in which rows hold one. Raises BadRow."""
    if isinstance(value, Picture):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        # base64 in a column of bytes
        return Picture(data.decode("ascii", "replace") if data.startswith(_START_BYTES) else data)
    if isinstance(value, Image.Image):
        return Picture(value)
    if isinstance(value, np.ndarray):
        return Picture(_of_pixels(value))
    if isinstance(value, io.BytesIO):
        return Picture(value.getvalue())
    if isinstance(value, Path):
        return Picture(str(value))
    if isinstance(value, str) and value.strip():
        return Picture(value.strip() if len(value) < 4096 else value)
    if isinstance(value, Mapping):
        for key in ("bytes", "image", "image_url", "url", "path", "src", "data", "base64", "source", "file_name"):
            if value.get(key):
                return picture(value[key])
    raise BadRow("image of no known form", f"an image must be bytes, base64, a data URI, a path or a URL{_not(value)}")


def _of_pixels(pixels: np.ndarray) -> Image.Image:
    """The picture of an array [height, width] or [height, width, 1, 3 or 4 channels] of bytes. Raises BadRow."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not pixels.size or not (pixels.ndim == 2 or pixels.shape[2:] in ((3,), (4,))):
        why = f"not one of {pixels.dtype} of shape {pixels.shape}"
        raise BadRow("image of no known form", f"an array of an image must be uint8 [height, width, channels], {why}")
    return Image.fromarray(pixels)


def _not(value: Any) -> str:
    """What was found in place of a picture, and the cure where it may be its pixels."""
    if isinstance(value, list | tuple | int | float) and not isinstance(value, bool):
        return ", not numbers: if they are its pixels or bytes, save it as PNG or JPEG"
    if isinstance(value, Mapping):
        return f", or an object of one of these under a usual name, not one of {', '.join(map(repr, value))[:100]}"
    return "" if value is None or isinstance(value, str | bool) else f", not a {type(value).__name__}"


class Media:
    """Opens the pictures of one file's rows.

    Args:
      root: folder that paths are relative to; None where there is none (rows that a program made).
      outside: whether a path may lead out of it.
      fetch: makes a file beside a remote one a local one, by its path from there; raises FileNotFoundError. With it
        `root` is only named, never looked into.
    """

    def __init__(
        self,
        root: Path | None,
        *,
        outside: bool = False,
        private_urls: bool = False,
        cache: Path | None = None,
        fetch: Callable[[str], Path] | None = None,
    ):
        self._root, self._outside, self._private, self._cache = root, outside, private_urls, cache
        self._fetch = fetch
        self._fence = os.path.realpath(root) if root is not None else ""
        self._folders: list[Path] | None = None
        self._packed: str | None = None
        self._sizes: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def open(self, picture: Picture) -> Image.Image:
        """The picture as shown: RGB, turned as its orientation says. Raises BadRow."""
        if isinstance(picture.value, Image.Image):
            return to_rgb(upright(picture.value))
        try:
            return decode_image(self._bytes(picture), LIMITS)
        except ImageError as error:
            raise BadRow("broken image", f"an image can't be read ({error})") from None

    def frames(self, clip: Clip) -> Frames:
        """The frames of a video that are shown. Raises BadRow."""
        return self._video(clip, read_video)

    def video_shape(self, clip: Clip) -> tuple[int, tuple[int, int]]:
        """(frames shown, (width, height)) of a video. Raises BadRow."""
        return self._video(clip, video_shape)

    def _video(self, clip: Clip, reader: Callable[[Path | bytes], T]) -> T:
        file = clip.file
        try:
            return reader(self._path(str(file.value)) if file.form == "path" else self._bytes(file))
        except (ImageError, ValueError) as error:
            raise BadRow("broken video", f"a video can't be read ({error})") from None
        except ModuleNotFoundError:
            raise UserError(
                "videos need PyAV, which is not installed: pip install 'hypereyes-jax[video]', or remove those rows."
            ) from None

    def encoded(self, picture: Picture) -> bytes:
        """The picture's file as it is, once it is seen to be a whole picture. Raises BadRow."""
        if isinstance(picture.value, Image.Image):
            return encode_image(self.open(picture), "PNG", max_side=LIMITS.max_side)
        data = self._bytes(picture)
        self.open(Picture(data))
        return data

    def size(self, picture: Picture) -> tuple[int, int]:
        """(width, height) as shown, from the header alone. Raises BadRow."""
        if isinstance(picture.value, Image.Image):
            return _header(picture.value)
        if picture.form != "path":
            return _header(self._bytes(picture))
        path = self._path(str(picture.value))
        size = self._sizes.get(str(path))
        if size is None:
            with open(path, "rb") as file:
                size = _header(file)
            with self._lock:
                if len(self._sizes) >= _KNOWN_SIZES:
                    self._sizes.clear()
                self._sizes[str(path)] = size
        return size

    def check(self, picture: Picture) -> None:
        """What is seen without reading the picture: that its path exists, that its URL may be asked. Raises BadRow."""
        if picture.form == "path" and self._fetch is not None:
            self._beside(str(picture.value))  # whether it is there is known once it is fetched
        elif picture.form == "path":
            self._path(str(picture.value))
        elif picture.form == "url":
            self._guard(str(picture.value)[:8192])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | {"_sizes": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}

    def _bytes(self, picture: Picture) -> bytes:
        value = picture.value
        if isinstance(value, bytes):
            return value
        assert isinstance(value, str)
        match picture.form:
            case "base64":
                return _from_base64(value)
            case "url":
                return self._fetched(value)
        path = self._path(value)
        try:
            if path.stat().st_size > LIMITS.max_bytes:
                raise BadRow("broken image", f"the image {value[:200]} has more than {LIMITS.max_bytes:,} bytes")
            return path.read_bytes()
        except OSError as error:
            raise BadRow("image not readable", f"the image {value[:200]} can't be read ({error.strerror})") from None

    def _path(self, text: str) -> Path:
        """The file of a path as written: below the root, or below a folder of it, as archives are unpacked."""
        if text[:6].lower() == "file:/":
            text = unquote(text[5:].removeprefix("//").removeprefix("localhost"))
        elif re.match(r"[a-zA-Z][a-zA-Z0-9+.-]{1,11}://", text):
            why = f"images are fetched from http:// and https:// only, not from {text[:200]}"
            raise BadRow("image URL refused", why)
        if self._root is None:
            raise BadRow(
                "image path without a folder",
                f"there is no folder for the image path {text[:200]}: say which by image_root (--image-root)",
            )
        if len(text) > 4096 or "\0" in text:
            raise BadRow("image of no known form", "an image is neither base64 nor a path that could exist")
        if "\\" in text and not (self._fetch is None and self._is_file(self._root / text)):
            text = _from_windows(text)
        relative = Path(text)
        if self._fetch is not None:
            try:
                return self._fetch(self._beside(text))
            except FileNotFoundError:
                raise BadRow("image missing", f"there is no image {text[:200]} beside the source's file") from None
        # "set/images/1.jpg" in the file set/questions.jsonl is written from the folder above.
        repeated = len(relative.parts) > 1 and relative.parts[0] == self._root.name
        shorter = [Path(*relative.parts[1:])] if repeated else []
        candidates = [self._root / part for part in (relative, *shorter)]
        for path in candidates:
            if self._is_file(path):
                return self._inside(path, text)
        for folder in self._subfolders():
            if not relative.is_absolute() and self._is_file(folder / relative):
                return self._inside(folder / relative, text)
        plain = unquote(text)  # programs of the web write "a%20b.png"
        if plain != text and any(self._is_file(folder / plain) for folder in (self._root, *self._subfolders())):
            return self._path(plain)
        for form in ("NFC", "NFD"):  # archives made on a Mac take letters with accents apart
            same = unicodedata.normalize(form, text)
            if same != text and any(self._is_file(folder / same) for folder in (self._root, *self._subfolders())):
                return self._path(same)
        self._inside(candidates[0], text)
        archive = self._archive()
        cure = (
            f": unpack {archive} there first, or give the folder it was unpacked in as image_root (--image-root)"
            if archive
            else "; paths are relative to the folder of their file, or to image_root (--image-root)"
        )
        raise BadRow("image missing", f"there is no image {text[:200]} below {self._root}{cure}")

    @staticmethod
    def _beside(text: str) -> str:
        """The path of a picture relative to a remote file. Raises BadRow for one that leads out of its folder."""
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts:
            raise BadRow("image outside the folder", f"the image {text[:200]} leads out of the source's folder")
        return path.as_posix()

    @staticmethod
    def _is_file(path: Path) -> bool:
        try:
            return path.is_file()
        except OSError:  # a name too long, a folder that may not be read
            return False

    def _inside(self, path: Path, text: str) -> Path:
        if self._outside:
            return path
        if os.path.realpath(path).startswith(self._fence.rstrip(os.sep) + os.sep):
            return path
        raise BadRow(
            "image outside the folder",
            f"the image {text[:200]} leads out of {self._root}, which is allowed by outside_images (--outside-images) "
            "only",
        )

    def _subfolders(self) -> list[Path]:
        if self._folders is None:
            assert self._root is not None
            try:
                self._folders = sorted(folder for folder in self._root.iterdir() if folder.is_dir())[:64]
            except OSError:
                self._folders = []
        return self._folders

    def _archive(self) -> str:
        """The name of an archive in the root, or in a folder of it, that pictures may be packed in; "" without one."""
        if self._packed is None:
            assert self._root is not None
            names: list[str] = []
            for folder in (self._root, *self._subfolders()):
                with contextlib.suppress(OSError):
                    names += sorted(
                        path.relative_to(self._root).as_posix()
                        for path in folder.iterdir()
                        if path.name.lower().endswith(_ARCHIVES)
                    )
            self._packed = next(iter(names), "")
        return self._packed

    def _guard(self, url: str) -> UrlGuard:
        guard = UrlGuard(allow_private=True, ports=None) if self._private else UrlGuard()
        try:
            guard.check(url)
        except UrlError as error:
            raise BadRow("image URL refused", f"the URL of an image is not fetched: {error}") from None
        return guard

    def _fetched(self, url: str) -> bytes:
        cache_file = cache_folder(self._cache, "images") / hashlib.sha256(url.encode()).hexdigest()
        if cache_file.exists():
            return cache_file.read_bytes()
        guard = self._guard(url)
        # In a thread of its own, since the caller's may run an event loop.
        with ThreadPoolExecutor(1) as thread:
            try:
                data = thread.submit(asyncio.run, guard.fetch(url)).result()
            except UrlError as error:
                raise BadRow("image not fetched", f"an image could not be fetched: {error}") from None
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache_file, data)
        return data


def _from_windows(path: str) -> str:
    """A path as Windows writes it with the separators of this system. Raises BadRow for one with a drive."""
    if PureWindowsPath(path).drive:
        raise BadRow(
            "image path of Windows",
            f"the image path {path[:200]} is one of another machine: write it relative to the file's folder, or to "
            "image_root (--image-root)",
        )
    return path.replace("\\", "/")


def _from_base64(text: str) -> bytes:
    try:
        return read_base64(text, LIMITS.max_bytes)
    except ImageError as error:
        raise BadRow("broken image", f"an image can't be read ({error})") from None


def _header(source: Any) -> tuple[int, int]:
    try:
        return displayed_size(source)
    except ImageError as error:
        raise BadRow("broken image", f"an image can't be read ({error})") from None
