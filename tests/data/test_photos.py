"""Photo sets in their published layouts."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from hypereyes_jax.apart import run_apart
from hypereyes_jax.data.photos import layouts, matlab, open_photos
from hypereyes_jax.data.photos.flower_names import FLOWER_NAMES
from hypereyes_jax.errors import UserError
from tests.data import photo_folders
from tests.in_process import run_here


@pytest.fixture(autouse=True)
def no_process(monkeypatch):
    monkeypatch.setattr(matlab, "run_apart", run_here)


def test_cub(tmp_path):
    found = open_photos("cub", photo_folders.cub(tmp_path))
    assert found.classes == ("Black footed Albatross", "Indigo Bunting", "Laysan Albatross")
    assert len(found.photos) == 6
    assert [photo.split for photo in found.photos[:2]] == ["train", "test"]
    assert found.photos[0].box == (10, 5, 40, 25)  # x, y, width, height in the file
    assert found.open(found.photos[0]).size == (60, 40)
    assert "non-commercial" in found.licence


def test_flowers_take_their_names_from_our_list(tmp_path):
    # Known from the set's own pages: 54 sunflower, 74 rose, 77 passion flower.
    assert (len(FLOWER_NAMES), FLOWER_NAMES[53], FLOWER_NAMES[73], FLOWER_NAMES[76]) == (
        102,
        "sunflower",
        "rose",
        "passion flower",
    )
    found = open_photos("flowers", photo_folders.flowers(tmp_path))
    assert [photo.label for photo in found.photos] == ["passion flower", "sunflower", "rose", "sunflower"]
    assert [photo.split for photo in found.photos] == ["train", "val", "test", "test"]


def test_cars(tmp_path):
    found = open_photos("cars", photo_folders.cars(tmp_path))
    assert [(p.label, p.split, p.box) for p in found.photos] == [
        ("Acura RL Sedan 2012", "train", (5, 6, 50, 35)),
        ("AM General Hummer SUV 2000", "test", (5, 6, 50, 35)),
    ]
    assert found.parents["Acura RL Sedan 2012"] == "Acura"
    assert found.open(found.photos[1]).size == (60, 40)


def test_aircraft_lose_their_banner_and_know_their_family(tmp_path):
    found = open_photos("aircraft", photo_folders.aircraft(tmp_path))
    assert [(p.label, p.split) for p in found.photos] == [("707-320", "train"), ("ATR-42", "val"), ("F/A-18", "test")]
    assert found.parents["707-320"] == "Boeing 707"
    assert found.photos[0].box == (10, 20, 90, 70)
    assert found.open(found.photos[0]).size == (120, 80)


def test_pets(tmp_path):
    found = open_photos("pets", photo_folders.pets(tmp_path))
    assert [(p.label, p.split, p.box) for p in found.photos] == [
        ("Abyssinian", "train", (3, 4, 30, 25)),
        ("american bulldog", "test", None),
    ]
    assert found.parents == {"Abyssinian": "cat", "american bulldog": "dog"}
    assert found.licence == "CC BY-SA 4.0"


@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_any_folder_of_class_folders(tmp_path, splits):
    photo_folders.class_folders(tmp_path, ["01_Red_Fox", "Badger"], splits)
    (tmp_path / "LICENSE").write_text("CC0 1.0\nmore\n")
    found = open_photos("folders", tmp_path)
    assert found.classes == ("Badger", "Red Fox")
    assert {photo.split for photo in found.photos} == set(splits)
    assert found.licence == "CC0 1.0"


def test_what_programs_leave_beside_photos_is_no_class_and_no_photo(tmp_path):
    photo_folders.class_folders(tmp_path, ["Badger", "Fox", "__MACOSX", ".ipynb_checkpoints"])
    (tmp_path / "Fox" / "._a.jpg").write_bytes(b"Mac OS X")
    photos = open_photos("folders", tmp_path)
    assert photos.classes == ("Badger", "Fox")
    assert [photo.source.name for photo in photos.photos] == ["a.jpg", "a.jpg"]


@pytest.mark.parametrize("names", [5, None, "ab", [1, 2], {"a": 1}])
def test_a_parquet_copy_without_names_that_can_be_read_is_refused(tmp_path, names):
    folder = photo_folders.parquet(tmp_path)
    (file,) = folder.glob("*.parquet")
    table = pq.read_table(file)
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(UserError, match="a 'label' whose name is known"):
        open_photos("cub", folder)


def test_a_parquet_copy_has_its_names_from_the_schema(tmp_path):
    found = open_photos("cub", photo_folders.parquet(tmp_path))
    assert found.classes == ("Black footed Albatross", "Laysan Albatross")
    assert found.photos[1].split == "train"
    assert np.asarray(found.open(found.photos[1]))[0, 0, 0] == 1
    assert "non-commercial" in found.licence


@pytest.mark.parametrize("name", ["cub", "flowers", "cars", "aircraft", "pets", "folders"])
def test_an_empty_folder_is_none_of_them(tmp_path, name):
    with pytest.raises(UserError, match="Give"):
        open_photos(name, tmp_path)


def test_damage_is_told_with_its_place(tmp_path):
    base = photo_folders.cub(tmp_path / "a") / "CUB_200_2011"
    boxes = base / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace("5.0", "five", 1))
    with pytest.raises(UserError, match=r"bounding_boxes.txt, line 1.*not numbers"):
        open_photos("cub", tmp_path / "a")
    boxes.write_text("1 2 3\n")
    with pytest.raises(UserError, match=r"line 1: 3 fields, where 5"):
        open_photos("cub", tmp_path / "a")
    (photo_folders.flowers(tmp_path / "b") / "imagelabels.mat").write_bytes(b"not a mat file")
    with pytest.raises(UserError, match=r"imagelabels.mat is not a MATLAB file"):
        open_photos("flowers", tmp_path / "b")
    with pytest.raises(UserError, match="no photo set 'birds'"):
        open_photos("birds", tmp_path)
    found = open_photos("folders", photo_folders.class_folders(tmp_path / "c", ["a", "b"]))
    (tmp_path / "c" / "a" / "a.jpg").write_bytes(b"\xff\xd8broken")
    with pytest.raises(UserError, match=r"a.jpg can't be read"):
        found.open(found.by_class["a"][0])


@pytest.mark.parametrize(("place", "byte"), [(368, 0), (460, 130)])  # scipy crashes at the second
def test_a_matlab_file_with_a_flipped_byte_is_refused_whatever_its_reader_does(tmp_path, monkeypatch, place, byte):
    monkeypatch.setattr(matlab, "run_apart", run_apart)
    rows = np.zeros((1, 3), [("class", object), ("fname", object), ("bbox_x1", object)])
    for number in range(3):
        rows[0, number] = (np.array([[number]], np.uint8), f"0{number}.jpg", np.array([[3.0]]))
    path = tmp_path / "annotations.mat"
    savemat(path, {"annotations": rows, "class_names": np.array([["a", "b"]], dtype=object)})
    data = bytearray(path.read_bytes())
    data[place] = byte
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"annotations.mat is not a MATLAB file of version 5 \(.*Download "):
        matlab.read_mat(path)


def test_files_of_a_set_that_may_not_be_read_are_not_to_be_fetched_anew(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    flowers, cub, pets = (getattr(photo_folders, name)(tmp_path / name) for name in ("flowers", "cub", "pets"))
    for name, root, holder, reader in (
        ("flowers", flowers, matlab, "open"),
        ("cub", cub, Path, "read_text"),
        ("pets", pets, layouts.ElementTree, "parse"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(holder, reader, refuse, raising=False)
            with pytest.raises(UserError, match=r"can't read .*Permission denied.*a file that you may read"):
                open_photos(name, root)


CAR = (5, 6, 50, 35, 2, "00001.jpg")


def _cars_with(*row):
    rows = np.empty((1, 1), [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")])
    rows[0, 0] = row
    return {"annotations": rows}


@pytest.mark.parametrize(
    ("name", "file", "arrays"),
    [
        ("flowers", "imagelabels.mat", {"other": np.array([1])}),
        ("flowers", "imagelabels.mat", {"labels": np.array([[np.nan]])}),
        ("flowers", "imagelabels.mat", {"labels": "abc"}),
        ("flowers", "setid.mat", {"trnid": "x"}),
        ("cars", "devkit/cars_meta.mat", {"other": np.array([1])}),
        ("cars", "devkit/cars_train_annos.mat", {"other": np.array([1])}),
        ("cars", "devkit/cars_train_annos.mat", {"annotations": np.array([1, 2])}),
        ("cars", "devkit/cars_train_annos.mat", {"annotations": {"a": 1}}),
        ("cars", "devkit/cars_train_annos.mat", _cars_with(*CAR[:4], np.nan, "00001.jpg")),
        ("cars", "devkit/cars_train_annos.mat", _cars_with(np.array([1, 2]), *CAR[1:])),
        ("cars", "devkit/cars_train_annos.mat", _cars_with(np.nan, *CAR[1:])),
    ],
)
def test_matlab_files_of_other_contents_are_refused_by_name(tmp_path, name, file, arrays):
    root = getattr(photo_folders, name)(tmp_path)
    savemat(root / file, arrays)
    with pytest.raises(UserError, match=f"{Path(file).name}.*Download "):
        open_photos(name, root)


def test_a_matlab_file_that_is_cut_short_is_refused_by_name(tmp_path):
    path = photo_folders.flowers(tmp_path) / "imagelabels.mat"
    for size in (0, 10, 60, 100, 130, 150):
        path.write_bytes((tmp_path / "setid.mat").read_bytes()[:size])
        with pytest.raises(UserError, match=r"imagelabels\.mat is not a MATLAB file"):
            open_photos("flowers", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [("cub", "classes.txt"), ("cub", "images.txt"), ("aircraft", "images_variant_val.txt"), ("pets", "test.txt")],
)
def test_lists_that_were_saved_with_a_byte_order_mark_are_read(tmp_path, name, file):
    root = getattr(photo_folders, name)(tmp_path)
    before = open_photos(name, root).photos
    (path,) = root.rglob(file)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"#Image CLASS-ID SPECIES BREED ID\n", b""))
    assert open_photos(name, root).photos == before


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
def test_boxes_that_are_not_finite_are_refused(tmp_path, value):
    (path,) = photo_folders.cub(tmp_path).rglob("bounding_boxes.txt")
    path.write_text(path.read_text().replace("10.0", value, 1))
    with pytest.raises(UserError, match=r"bounding_boxes\.txt, line 1: .* are not numbers"):
        open_photos("cub", tmp_path)
    root = photo_folders.pets(tmp_path / "pets")
    (path,) = root.rglob("*.xml")
    path.write_text(path.read_text().replace(">3<", f">{value}<"))
    with pytest.raises(UserError, match=r"Abyssinian_100\.xml: .* are not numbers"):
        open_photos("pets", root)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"Abyssinian_100\.xml is not an annotation"):
        open_photos("pets", root)
