"""Photo sets in the folders and lists that they were published in."""

from __future__ import annotations

import contextlib
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hypereyes_jax.data.photos.flower_names import FLOWER_NAMES
from hypereyes_jax.data.photos.matlab import read_mat
from hypereyes_jax.data.photos.types import Photo, PhotoSet, PixelBox
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular, unreadable

_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp"))
_BANNER = 20  # pixels, at the bottom of every aircraft photo
_LARGEST_LIST = 64 << 20  # bytes of a list that is read


def cub(root: Path) -> PhotoSet:
    """CUB-200-2011: 200 bird species, 11,788 photos with boxes."""
    base = _base(root, "images.txt", "CUB-200-2011")
    names = {number: _spaced(name.partition(".")[2] or name) for number, name in _pairs(base / "classes.txt")}
    labels, paths = dict(_pairs(base / "image_class_labels.txt")), dict(_pairs(base / "images.txt"))
    trains = dict(_pairs(base / "train_test_split.txt"))
    boxes: dict[str, PixelBox] = {}
    for line, fields in _lines(base / "bounding_boxes.txt", 5):
        x, y, width, height = _numbers(line, fields[1:])
        boxes[fields[0]] = (x, y, x + width, y + height)
    photos = tuple(
        Photo(
            base / "images" / path,
            _known(names, labels, number, base),
            "train" if trains.get(number) == "1" else "test",
            boxes.get(number),
        )
        for number, path in paths.items()
    )
    return PhotoSet("cub", "bird species", "images for non-commercial research and education only", photos)


def flowers(root: Path) -> PhotoSet:
    """Oxford Flowers-102: 102 species, 8,189 photos; labels in a MATLAB file, names from a list of ours."""
    base = _base(root, "imagelabels.mat", "Oxford Flowers-102")
    with _as_published(base / "imagelabels.mat"):
        labels = [int(label) for label in read_mat(base / "imagelabels.mat")["labels"]]
    with _as_published(base / "setid.mat"):
        parts = read_mat(base / "setid.mat") if (base / "setid.mat").exists() else {}
        splits = {
            int(number): split
            for key, split in (("trnid", "train"), ("valid", "val"), ("tstid", "test"))
            if key in parts
            for number in parts[key]
        }
    if not labels or min(labels) < 1 or max(labels) > len(FLOWER_NAMES):
        raise UserError(
            f"{base / 'imagelabels.mat'}: labels must be 1 to {len(FLOWER_NAMES)}. Download the file again."
        )
    photos = tuple(
        Photo(base / "jpg" / f"image_{number:05d}.jpg", FLOWER_NAMES[label - 1], splits.get(number, ""))
        for number, label in enumerate(labels, start=1)
    )
    return PhotoSet("flowers", "flower species", "not stated by the authors", photos)


def cars(root: Path) -> PhotoSet:
    """Stanford Cars: 196 models, 16,185 photos with boxes; annotations in MATLAB files."""
    base = _base(root, "devkit/cars_meta.mat", "Stanford Cars")
    with _as_published(base / "devkit/cars_meta.mat"):
        names = [
            str(_only(name) if isinstance(name, list) else name)
            for name in read_mat(base / "devkit/cars_meta.mat")["class_names"]
        ]
    photos: list[Photo] = []
    for split, folder, files in (
        ("train", "cars_train", ("devkit/cars_train_annos.mat",)),
        ("test", "cars_test", ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")),
    ):
        file = next((base / name for name in files if (base / name).exists()), None)
        if file is None:
            continue
        with _as_published(file):
            for row in read_mat(file)["annotations"]:
                label = int(_only(row["class"]))
                if not 1 <= label <= len(names):
                    raise UserError(f"{file}: a class is {label}, of {len(names)}. Download the file again.")
                corners = [str(_only(row[name])) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")]
                x1, y1, x2, y2 = _numbers(str(file), corners)
                name = Path(str(_only(row["fname"]))).name
                photos.append(Photo(base / folder / name, names[label - 1], split, (x1, y1, x2, y2)))
    parents = {name: name.split()[0] for name in names}  # the make
    return PhotoSet("cars", "car model", "for non-commercial research only", tuple(photos), parents)


def aircraft(root: Path) -> PhotoSet:
    """FGVC-Aircraft: variants of aircraft with families as the coarser class, and boxes."""
    base = _base(root, "images_variant_test.txt", "FGVC-Aircraft")
    families = dict(_labels(base, "family"))
    boxes = {
        fields[0]: tuple(_numbers(line, fields[1:]))
        for line, fields in _lines(base / "images_box.txt", 5, missing=True)
    }
    photos, parents = [], {}
    for split in ("train", "val", "test"):
        for number, label in _labels(base, "variant", split):
            box: Any = boxes.get(number)
            photos.append(Photo(base / "images" / f"{number}.jpg", label, split, box, _BANNER))
            if number in families:
                parents[label] = families[number]
    licence = "for non-commercial research only; the photographers keep the copyright"
    return PhotoSet("aircraft", "aircraft variant", licence, tuple(photos), parents)


def pets(root: Path) -> PhotoSet:
    """Oxford-IIIT Pets: 37 breeds of cats and dogs, 7,349 photos, some with a box of the head."""
    base = _base(root, "annotations/trainval.txt", "Oxford-IIIT Pets")
    photos, parents = [], {}
    for file, split in (("trainval.txt", "train"), ("test.txt", "test")):
        for _, fields in _lines(base / "annotations" / file, 4, missing=file == "test.txt"):
            label = _spaced(fields[0].rpartition("_")[0])
            parents[label] = "cat" if fields[2] == "1" else "dog"
            box = _voc_box(base / "annotations" / "xmls" / f"{fields[0]}.xml")
            photos.append(Photo(base / "images" / f"{fields[0]}.jpg", label, split, box))
    return PhotoSet("pets", "breed of cat or dog", "CC BY-SA 4.0", tuple(photos), parents)


def folders(root: Path) -> PhotoSet:
    """Any folder with a folder a class, or with `train`, `val` and `test` of such; names as the folders are called."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}. Give one with a folder a class.")
    splits = [part for part in ("train", "val", "test") if (root / part).is_dir()]
    photos = [
        Photo(path, _spaced(re.sub(r"^\d+[._-]", "", folder.name)), split)
        for split in splits or ("",)
        for folder in sorted((root / split).iterdir())
        if folder.is_dir() and not _of_a_program(folder)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _SUFFIXES and not _of_a_program(path)
    ]
    if not photos:
        raise UserError(f"{root} has no folder with photos in it. Give a folder that has a folder a class.")
    licence = root / "LICENSE"
    licence_lines = licence.read_text(errors="replace").strip().splitlines()[:1] if licence.is_file() else []
    return PhotoSet(root.name, "class", licence_lines[0] if licence_lines else "not stated", tuple(photos))


def _of_a_program(path: Path) -> bool:
    """Whether it is what programs leave beside photos: hidden files and folders, a Mac's folder."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def _base(root: Path, file: str, title: str) -> Path:
    """The folder that holds the file: the given one or, as archives unpack, one or two below."""
    for pattern in (file, f"*/{file}", f"*/*/{file}"):
        matches = sorted(root.glob(pattern))
        if matches:
            return matches[0].parents[file.count("/")]
    raise UserError(f"{root} holds no {file}, so it is not {title}. Give the folder its archives were unpacked in.")


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


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for _, (key, value) in _lines(path, 2):
        yield key, value


def _labels(base: Path, level: str, split: str = "") -> Iterator[tuple[str, str]]:
    """(image, label) of one list, or of all of a level; a label may hold spaces and slashes."""
    files = (f"images_{level}_{part}.txt" for part in ((split,) if split else ("train", "val", "test")))
    for file in files:
        for number, line in enumerate(_text_lines(base / file, missing=split != "test"), start=1):
            image, _, label = line.strip().partition(" ")
            if not image.isdigit() or not label.strip():
                raise UserError(f"{base / file}, line {number}: it must be an image and its label. Download it again.")
            yield image, label.strip()


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
