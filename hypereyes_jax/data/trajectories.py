"""Demonstrations as token records, made when a batch asks for them; and which of them no batch can take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from hypereyes_jax.data.sources.example_rows import ExampleRow
from hypereyes_jax.data.sources.media import Clip, Media, Picture
from hypereyes_jax.data.sources.source import Examples
from hypereyes_jax.data.sources.types import BadRow, RowError
from hypereyes_jax.processing.chat import ChatFormat
from hypereyes_jax.processing.images import MAX_PIXELS, MIN_PIXELS, PatchedImage, smart_resize
from hypereyes_jax.processing.types import Chunk, ContextChunk

_SIDE = 32  # pixels of a visual token
_MARKS = 16  # special tokens and line ends of a message, at most

TOO_LONG, UNFIT_IMAGE = "too long", "image that does not fit"
DO_NOT_FIT = (TOO_LONG, UNFIT_IMAGE)  # kinds of rows that are whole, and that no row of a batch holds


@dataclass(frozen=True)
class RowLimits:
    """What a row of a batch takes."""

    tokens: int
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS


def check_fit(row: ExampleRow, media: Media, chat: ChatFormat, limits: RowLimits) -> None:
    """Whether a demonstration fits a row. Pictures are looked at by their headers only.

    Raises BadRow for one that is longer, and for one with a picture that no resizing makes fit (a strip).
    """
    visual = 0
    for part in dict.fromkeys(row.pictures):
        visual += row.pictures.count(part) * picture_tokens(media, part, limits)
    for clip in row.clips:
        visual += clip_tokens(media, clip, limits)
    texts = [row.system, *row.turns, *(part for parts in row.observations for part in parts if isinstance(part, str))]
    # A token is at least a byte, so most rows need no tokenizing.
    if visual + sum(len(text.encode()) for text in texts) + _MARKS * 2 * (len(row.turns) + 1) <= limits.tokens:
        return
    tokens = text_tokens(row, chat) + visual
    if tokens > limits.tokens:
        raise BadRow(TOO_LONG, f"it has {tokens:,} tokens, where a row holds {limits.tokens:,}")


def text_tokens(row: ExampleRow, chat: ChatFormat) -> int:
    """Tokens of a demonstration without its pictures'."""
    count = 0
    for number, parts in enumerate(row.observations):
        # The format takes whatever is not text for an image, and here only its place counts.
        chunk = chat.prompt(row.system, parts) if number == 0 else chat.observation(parts)  # type: ignore[arg-type]
        count += len(chunk.tokens) - len(chunk.images)
    return count + sum(len(chat.turn(turn)) for turn in row.turns)


def visual_tokens(row: ExampleRow, media: Media, limits: RowLimits) -> int:
    """Tokens of a demonstration's pictures. Raises BadRow for a picture that is broken or a strip."""
    pictures = sum(picture_tokens(media, part, limits) for part in row.pictures)
    return pictures + sum(clip_tokens(media, clip, limits) for clip in row.clips)


def clip_tokens(media: Media, clip: Clip, limits: RowLimits) -> int:
    """Tokens of a video's frames with the times before them, at most. Raises BadRow."""
    count, (width, height) = media.video_shape(clip)
    return count * (_size_tokens(width, height, limits) + _MARKS)


def picture_tokens(media: Media, part: Picture, limits: RowLimits) -> int:
    """Tokens of a picture, from its header. Raises BadRow for one that is broken, or that no resizing makes fit."""
    return _size_tokens(*media.size(part), limits)


def _size_tokens(width: int, height: int, limits: RowLimits) -> int:
    try:
        rows, columns = smart_resize(height, width, _SIDE, limits.min_pixels, limits.max_pixels)
    except ValueError as error:
        raise BadRow(UNFIT_IMAGE, f"an image can't be used: {error}") from None
    return rows * columns // _SIDE**2


def unusable(
    examples: Examples, indices: Iterable[int], chat: ChatFormat, limits: RowLimits
) -> list[tuple[int, RowError]]:
    """The demonstrations among `indices` that cannot be trained on, and why. Of pictures it reads the headers."""
    errors = []
    for index in indices:
        try:
            row = examples.row(index)
            try:
                row.check(examples.media(index))
                check_fit(row, examples.media(index), chat, limits)
            except BadRow as error:
                raise examples.error(index, error) from None
        except RowError as error:
            errors.append((index, error))
    return errors


class Trajectories(Sequence[tuple[Chunk, ...]]):
    """Token records of demonstrations, decoded on access.

    A demonstration that turns out to be unusable only then (its pixels are broken) gives way to the next that can be
    used, the same one in every run, so that all processes go on in step; `on_bad` is told of each once. Without
    `on_bad` it raises RowError.
    """

    def __init__(
        self,
        examples: Examples,
        chat: ChatFormat,
        kept: Sequence[int] | None = None,
        on_bad: Callable[[RowError], None] | None = None,
        patchify: Callable[[Image.Image], PatchedImage] | None = None,
    ):
        """Args:
        kept: which of the demonstrations; None = all.
        patchify: makes of each picture what a batch takes, where that is not to be left to the packing.
        """
        self._source, self._chat = examples, chat
        self._examples = examples if kept is None else examples.select(kept)
        self._on_bad, self._patchify = on_bad, patchify
        self._bad: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._examples)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        return self._examples.fingerprint()

    def close(self) -> None:
        """Closes the source."""
        self._source.close()

    def __getitem__(self, index: int) -> tuple[Chunk, ...]:  # type: ignore[override]
        number = range(len(self))[index]
        for _ in range(len(self)):
            try:
                return self._chunks(number)
            except RowError as error:
                if self._on_bad is None:
                    raise
                with self._lock:
                    is_new = number not in self._bad
                    self._bad.add(number)
                if is_new:
                    self._on_bad(error)
                number = (number + 1) % len(self)
        raise ValueError("none of the demonstrations can be used")

    def _chunks(self, number: int) -> tuple[Chunk, ...]:
        chunks = self._examples[number].chunks(self._chat)
        if self._patchify is None:
            return chunks
        patched: dict[int, PatchedImage] = {}
        try:
            for chunk in chunks:
                for image in chunk.images if isinstance(chunk, ContextChunk) else ():
                    if id(image) not in patched:
                        patched[id(image)] = self._patchify(image)
        except ValueError as error:
            bad = BadRow(UNFIT_IMAGE, f"an image can't be used: {error}")
            raise self._examples.error(number, bad) from None
        return tuple(
            replace(chunk, images=tuple(patched[id(image)] for image in chunk.images))  # type: ignore[misc]
            if isinstance(chunk, ContextChunk)
            else chunk
            for chunk in chunks
        )
