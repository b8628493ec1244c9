"""Photo sets by name: in their original layouts, or as parquet files with an image and a label."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypereyes_jax.data.photos import layouts
from hypereyes_jax.data.photos.class_folders import folders
from hypereyes_jax.data.photos.locate import unpack_first
from hypereyes_jax.data.photos.parquet_boxes import RowBox, box_of_row, pixel_boxes
from hypereyes_jax.data.photos.types import Photo, PhotoSet, RowOfFile
from hypereyes_jax.data.sources.formats import open_rows
from hypereyes_jax.data.sources.splits import incomplete_shards, split_of_name
from hypereyes_jax.data.sources.table_rows import class_names
from hypereyes_jax.data.sources.types import BadRow, SourceOptions
from hypereyes_jax.errors import UserError

PHOTO_SETS: dict[str, Callable[[Path], PhotoSet]] = {
    "cub": layouts.cub,
    "flowers": layouts.flowers,
    "cars": layouts.cars,
    "aircraft": layouts.aircraft,
    "pets": layouts.pets,
    "folders": folders,
}
_LABELS = ("label_name", "label", "variant")  # the last in copies of FGVC-Aircraft
_NO_NAME = re.compile(r"(?:class|label|category)?[ _-]*\d+|n\d{8}", re.IGNORECASE)  # numbers, and ImageNet's ids
_ABOUT = {  # of the parquet copies, which carry neither: what a class is, and the licence of the original
    "cub": ("bird species", "images for non-commercial research and education only"),
    "flowers": ("flower species", "not stated by the authors"),
    "cars": ("car model", "for non-commercial research only"),
    "aircraft": ("aircraft variant", "for non-commercial research only; the photographers keep the copyright"),
    "pets": ("breed of cat or dog", "CC BY-SA 4.0"),
}


def open_photos(name: str, root: Path) -> PhotoSet:
    """A photo set by name, from the folder it was unpacked in.

    A folder (or file) of parquet files with the columns `image` and `label` is read as such a copy: class names come
    from `label_name`, or from the names of the label that `datasets` keeps in the file; boxes from `bbox`. Photos that
    the set's lists name and that are not there are left out. The set's `notes` say what is left out.

    Raises:
      UserError: there is no such set, its files are missing or damaged, or photos are of too few classes for a
        question.
    """
    if name not in PHOTO_SETS:
        raise UserError(f"there is no photo set {name!r}. Choose one of {', '.join(PHOTO_SETS)}.")
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    if files and name != "folders":
        photos = _from_parquet(name, root, files)
    else:
        photos = _without_absent(PHOTO_SETS[name](root), root)
    if len(photos.classes) < 2:
        raise UserError(
            f"{root} has photos of {len(photos.classes)} classes, and a question needs two. Give the whole set."
        )
    if all(map(_NO_NAME.fullmatch, photos.classes)):
        names = ", ".join(photos.classes[:5])
        raise UserError(
            f"the classes of {root} have no names but {names}, ..., and nothing can be searched or asked about these. "
            "Give the folders, or the labels, the names of what they show."
        )
    return photos


def _without_absent(photos: PhotoSet, root: Path) -> PhotoSet:
    """The photos that are there. Raises UserError if none of those that the lists name is."""
    there: list[Photo] = []
    absent: list[Photo] = []
    for photo in photos.photos:
        (there if isinstance(photo.source, Path) and photo.source.is_file() else absent).append(photo)
    if not absent:
        return photos
    count, first = len(absent), absent[0].source
    if not there:
        cure = unpack_first(root) or "Unpack the whole set."
        raise UserError(f"none of the {count:,} photos that the lists of {root} name is there (as {first}). {cure}")
    lost = len(photos.classes) - len({photo.label for photo in there})
    classes = f", and with them {lost} of {len(photos.classes)} classes" if lost else ""
    note = f"{count:,} of {len(photos.photos):,} photos are not there (as {first}) and are left out{classes}"
    return replace(photos, photos=tuple(there), notes=(*photos.notes, note))


def _from_parquet(name: str, root: Path, paths: list[Path]) -> PhotoSet:
    photos: list[Photo] = []
    boxes: list[RowBox] = []
    parents: dict[str, str] = {}
    from_tfds = False
    files = tuple(open_rows(path, str(path), SourceOptions()) for path in paths)
    for number, (path, rows) in enumerate(zip(paths, files, strict=True)):
        classes = _class_names(path)
        split = split_of_name(path.relative_to(root).as_posix() if path != root else path.name)
        split = {"validation": "val"}.get(split, split)
        for index, row in rows.scan():
            if isinstance(row, BadRow):
                raise UserError(f"{path}, row {index + 1}: {row.why}. Download the file again.")
            column = next((each for each in _LABELS if row.get(each) is not None), "label")
            label = _class_name(row.get(column), classes.get(column, []))
            if label is None or "image" not in row:
                raise UserError(
                    f"{path}, row {index + 1}: it needs 'image' and a 'label' whose name is known "
                    f"({row.get(column)!r:.100} is not). Give a copy made by `datasets`."
                )
            family = _class_name(row.get("family"), classes.get("family", [])) if name == "aircraft" else None
            if family is not None:
                parents[label] = family
            banner = layouts.AIRCRAFT_BANNER if name == "aircraft" else 0
            photos.append(Photo(RowOfFile(number, index), label, split, banner=banner))
            boxes.append(box_of_row(row))
            from_tfds = from_tfds or "image/filename" in row
    subject, licence = _ABOUT[name]
    unboxed = PhotoSet(name, subject, licence, tuple(photos), parents, files)
    bare = [replace(photo, banner=0) for photo in photos]  # boxes are of the whole photo
    pixels, note = pixel_boxes(boxes, lambda place: unboxed.open(bare[place]).size, from_tfds)
    photos = [replace(photo, box=box) for photo, box in zip(photos, pixels, strict=True)]
    notes = [*([note] if note else []), *incomplete_shards(map(str, paths))]
    return replace(unboxed, photos=tuple(photos), notes=tuple(notes))


def _class_names(path: Path) -> dict[str, list[str]]:
    """Names of the classes of each column, as `datasets` writes them beside the schema; none without them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (ValueError, pa.ArrowException):
        return {}
    return class_names(schema)


def _class_name(label: Any, names: list[str]) -> str | None:
    """A class by its number or name: "001.Black_footed_Albatross" -> "Black footed Albatross"; None if it has none."""
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        label = names[label]
    if not isinstance(label, str):
        return None
    head, dot, rest = label.partition(".")
    return (rest if dot and head.isdigit() else label).replace("_", " ").strip()
