"""Photo sets in the folders and lists that they were published in."""

from __future__ import annotations

import contextlib
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hypereyes_jax.data.photos.flower_names import FLOWER_NAMES
from hypereyes_jax.data.photos.locate import find_file, photo_folder, required_file
from hypereyes_jax.data.photos.matlab import read_mat
from hypereyes_jax.data.photos.types import Photo, PhotoSet, PixelBox
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular, unreadable

AIRCRAFT_BANNER = 20  # pixels, at the bottom of every aircraft photo
_LARGEST_LIST = 64 << 20  # bytes of a list that is read


def cub(root: Path) -> PhotoSet:
    """CUB-200-2011: 200 bird species, 11,788 photos with boxes."""
    file = required_file(root, "CUB-200-2011", "images.txt")
    base = file.parent
    names = {number: _spaced(name.partition(".")[2] or name) for number, name in _pairs(base / "classes.txt", True)}
    paths = {number: path.replace("\\", "/") for number, path in _pairs(file)}
    labels = dict(_pairs(base / "image_class_labels.txt", True))
    trains = dict(_pairs(base / "train_test_split.txt", True))
    boxes: dict[str, PixelBox] = {}
    for line, fields in _lines(base / "bounding_boxes.txt", 5, missing=True):
        x, y, width, height = _numbers(line, fields[1:])
        boxes[fields[0]] = (x, y, x + width, y + height)

    def label_of(number: str) -> str:
        if names and labels:
            return _known(names, labels, number, base)
        folder = paths[number].partition("/")[0]  # which says the same: 001.Black_footed_Albatross
        return _spaced(folder.partition(".")[2] or folder)

    folder = photo_folder(root, base, "images", list(paths.values()))
    splits = {"1": "train", "0": "test"}
    photos = tuple(
        Photo(folder / path, label_of(number), splits.get(trains.get(number, ""), ""), boxes.get(number))
        for number, path in paths.items()
    )
    return PhotoSet("cub", "bird species", "images for non-commercial research and education only", photos)


def flowers(root: Path) -> PhotoSet:
    """Oxford Flowers-102: 102 species, 8,189 photos; labels in a MATLAB file, names from a list of ours."""
    file = required_file(root, "Oxford Flowers-102", "imagelabels.mat")
    with _as_published(file):
        labels = [int(label) for label in read_mat(file)["labels"]]
    split_file = find_file(root, "setid.mat")
    with _as_published(split_file or root):
        parts = read_mat(split_file) if split_file is not None else {}
        splits = {
            int(number): split
            for key, split in (("trnid", "train"), ("valid", "val"), ("tstid", "test"))
            if key in parts
            for number in parts[key]
        }
    if not labels or min(labels) < 1 or max(labels) > len(FLOWER_NAMES):
        raise UserError(f"{file}: labels must be 1 to {len(FLOWER_NAMES)}. Download the file again.")
    names = [f"image_{number:05d}.jpg" for number in range(1, len(labels) + 1)]
    folder = photo_folder(root, file.parent, "jpg", names)
    photos = tuple(
        Photo(folder / name, FLOWER_NAMES[label - 1], splits.get(number, ""))
        for number, (name, label) in enumerate(zip(names, labels, strict=True), start=1)
    )
    return PhotoSet("flowers", "flower species", "not stated by the authors", photos)


def cars(root: Path) -> PhotoSet:
    """Stanford Cars: 196 models, 16,185 photos with boxes; annotations in MATLAB files, one a split or one for all."""
    meta = required_file(root, "Stanford Cars", "cars_meta.mat", "cars_annos.mat")
    with _as_published(meta):
        names = [str(_only(name) if isinstance(name, list) else name) for name in read_mat(meta)["class_names"]]
    photos: list[Photo] = []
    lists = (("train", "cars_train_annos.mat"), ("test", "cars_test_annos_withlabels*.mat"), ("", "cars_annos.mat"))
    for part, pattern in lists:
        file = find_file(root, pattern)
        if file is None or (not part and photos):
            continue
        rows: list[tuple[str, str, str, PixelBox]] = []
        with _as_published(file):
            for row in read_mat(file)["annotations"]:
                label = int(_only(row["class"]))
                if not 1 <= label <= len(names):
                    raise UserError(f"{file}: a class is {label}, of {len(names)}. Download the file again.")
                corners = [str(_only(row[name])) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")]
                x1, y1, x2, y2 = _numbers(str(file), corners)
                split = part or ("test" if _only(row["test"]) else "train")
                name = Path(str(_only(row["fname" if part else "relative_im_path"]))).name
                rows.append((name, names[label - 1], split, (x1, y1, x2, y2)))
        place = (meta.parent.parent, f"cars_{part}") if part else (file.parent, "car_ims")
        folder = photo_folder(root, *place, [name for name, *_ in rows])
        photos += [Photo(folder / name, label, split, box) for name, label, split, box in rows]
    parents = {name: name.split()[0] for name in names}  # the make
    return PhotoSet("cars", "car model", "for non-commercial research only", tuple(photos), parents)


def aircraft(root: Path) -> PhotoSet:
    """FGVC-Aircraft: variants of aircraft with families as the coarser class, and boxes."""
    lists = [f"images_variant_{part}.txt" for part in ("test", "trainval", "train", "val")]
    base = required_file(root, "FGVC-Aircraft", *lists).parent
    families = {image: label for _, image, label in _labels(base, "family")}
    boxes = {
        fields[0]: tuple(_numbers(line, fields[1:]))
        for line, fields in _lines(base / "images_box.txt", 5, missing=True)
    }
    variants = {image: (label, split) for split, image, label in _labels(base, "variant")}
    parents = {label: families[image] for image, (label, _) in variants.items() if image in families}
    folder = photo_folder(root, base, "images", [f"{image}.jpg" for image in variants])
    photos = []
    for image, (label, split) in variants.items():
        box: Any = boxes.get(image)
        photos.append(Photo(folder / f"{image}.jpg", label, split, box, AIRCRAFT_BANNER))
    licence = "for non-commercial research only; the photographers keep the copyright"
    return PhotoSet("aircraft", "aircraft variant", licence, tuple(photos), parents)


def pets(root: Path) -> PhotoSet:
    """Oxford-IIIT Pets: 37 breeds of cats and dogs, 7,349 photos, some with a box of the head."""
    lists = (("list.txt", ""), ("trainval.txt", "train"), ("test.txt", "test"))
    files = ("annotations/trainval.txt", "annotations/test.txt", "annotations/list.txt")
    base = required_file(root, "Oxford-IIIT Pets", *files).parent
    rows: dict[str, tuple[str, str]] = {}
    for file, split in lists:
        for _, fields in _lines(base / file, 4, missing=True):
            rows[fields[0]] = fields[2], split
    folder = photo_folder(root, base.parent, "images", [f"{name}.jpg" for name in rows])
    photos, parents = [], {}
    for name, (species, split) in rows.items():
        label = _spaced(name.rpartition("_")[0])
        parents[label] = "cat" if species == "1" else "dog"
        photos.append(Photo(folder / f"{name}.jpg", label, split, _voc_box(base / "xmls" / f"{name}.xml")))
    return PhotoSet("pets", "breed of cat or dog", "CC BY-SA 4.0", tuple(photos), parents)


def _text_lines(path: Path, missing: bool = False) -> list[str]:
    refuse_irregular(path)
    try:
        if path.stat().st_size > _LARGEST_LIST:
            raise UserError(
                f"{path} has more than {_LARGEST_LIST:,} bytes, too many for a list. Download the file again."
            )
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip() and line[0] != "#"]
    except FileNotFoundError:
        if missing:
            return []
        raise UserError(f"there is no {path}. Unpack the whole set.") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise UserError(f"can't read {path} ({error}). Download the set again.") from None


def _lines(path: Path, fields: int, missing: bool = False) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(_text_lines(path, missing), start=1):
        values = line.split()
        if len(values) != fields:
            raise UserError(
                f"{path}, line {number}: {len(values)} fields, where {fields} are expected. Download it again."
            )
        yield f"{path}, line {number}", values


def _pairs(path: Path, missing: bool = False) -> Iterator[tuple[str, str]]:
    for _, (key, value) in _lines(path, 2, missing):
        yield key, value


def _labels(base: Path, level: str) -> Iterator[tuple[str, str, str]]:
    """(split, image, label) of all lists of a level; a label may hold spaces and slashes.

    The list of train and val together comes first, so that theirs decide where they are there.
    """
    for part in ("trainval", "train", "val", "test"):
        file = base / f"images_{level}_{part}.txt"
        for number, line in enumerate(_text_lines(file, missing=True), start=1):
            image, _, label = line.strip().partition(" ")
            if not image.isdigit() or not label.strip():
                raise UserError(f"{file}, line {number}: it must be an image and its label. Download it again.")
            yield "train" if part == "trainval" else part, image, label.strip()


def _numbers(where: str, fields: Sequence[str]) -> list[float]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: {' '.join(fields)!r} are not numbers. Download the file again.")
    return numbers


def _known(names: dict[str, str], labels: dict[str, str], number: str, base: Path) -> str:
    try:
        return names[labels[number]]
    except KeyError:
        raise UserError(
            f"{base / 'image_class_labels.txt'} has no class for image {number}. Download the set again."
        ) from None


@contextlib.contextmanager
def _as_published(path: Path) -> Iterator[None]:
    """Refuses a file whose arrays have other names or contents than those that were published."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} does not hold what the set's has ({error!r:.200}). Download it again.") from None


def _only(values: list[Any]) -> Any:
    """The one value of an array. Raises ValueError for none or several."""
    (value,) = values
    return _only(value) if isinstance(value, list) else value


def _voc_box(path: Path) -> PixelBox | None:
    if not path.exists():
        return None
    try:
        # Python's parser fetches nothing from outside; a file of a set has a few hundred bytes.
        if path.stat().st_size > 1 << 20:
            raise UserError(f"{path} is too large for an annotation. Download the set again.")
        box = ElementTree.parse(path).getroot().find("object/bndbox")
        names = ("xmin", "ymin", "xmax", "ymax")
        corners = _numbers(str(path), [box.findtext(name) or "" for name in names]) if box is not None else []
    except (ElementTree.ParseError, ValueError, IsADirectoryError) as error:
        raise UserError(f"{path} is not an annotation ({error}). Download the set again.") from None
    except OSError as error:
        raise unreadable(path, error) from None
    return (corners[0], corners[1], corners[2], corners[3]) if corners else None


def _spaced(name: str) -> str:
    return name.replace("_", " ").strip()
