"""The nouns of photo sets: photos of classes that only a search can tell much about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from hypereyes_jax.data.sources.media import LIMITS, Media, picture
from hypereyes_jax.data.sources.types import BadRow, Rows
from hypereyes_jax.env.media.images import ImageError, decode_image
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular

PixelBox = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the photo


class RowOfFile(NamedTuple):
    """A photo in a parquet file."""

    file: int
    row: int


@dataclass(frozen=True)
class Photo:
    """A photo of a set that is not opened yet."""

    source: Path | RowOfFile
    label: str  # the class, as one says it
    split: str = ""  # "train", "val", "test"; "" where the set has none
    box: PixelBox | None = None  # of the animal, plant or vehicle (of pets: its head)
    banner: int = 0  # rows of pixels at the bottom that show a credit


@dataclass(frozen=True)
class PhotoSet:
    """Photos by class, with what may be done with them."""

    name: str
    subject: str  # what a class is, in a word: "bird species"
    licence: str
    photos: tuple[Photo, ...]
    parents: Mapping[str, str] = field(default_factory=dict)  # class -> a coarser one, for distractors of its kind
    files: tuple[Rows, ...] = ()
    notes: tuple[str, ...] = ()  # what was left out, and why, in sentences for whoever makes questions

    @cached_property
    def by_class(self) -> Mapping[str, tuple[Photo, ...]]:
        groups: dict[str, list[Photo]] = {}
        for photo in self.photos:
            groups.setdefault(photo.label, []).append(photo)
        return {label: tuple(photos) for label, photos in sorted(groups.items())}

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.by_class)

    def refuse_unknown_splits(self, splits: Sequence[str]) -> None:
        """Raises UserError for a split of which there is no photo."""
        known = sorted({photo.split for photo in self.photos if photo.split})
        for split in splits:
            if split not in known:
                there = f"has {', '.join(known)}" if known else "tells of no splits"
                raise UserError(
                    f"--splits {split}: {self.name} {there}. Name one that is there, or leave --splits out."
                )

    def open(self, photo: Photo) -> Image.Image:
        """RGB at full resolution, without its banner. Raises UserError, which names the photo."""
        try:
            if isinstance(photo.source, RowOfFile):
                row = self.files[photo.source.file].read(photo.source.row)
                image = Media(None).open(picture(row.get("image")))
            else:
                refuse_irregular(photo.source)
                image = decode_image(photo.source.read_bytes(), LIMITS)
        except (ImageError, BadRow, OSError) as error:
            raise UserError(
                f"the photo {photo.source} can't be read ({error}). Download the set again, or remove the photo, "
                "and it is left out."
            ) from None
        if photo.banner and image.height > 4 * photo.banner:
            image = image.crop((0, 0, image.width, image.height - photo.banner))
        return image
