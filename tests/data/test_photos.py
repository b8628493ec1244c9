"""Photo sets in their published layouts."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
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


def test_cars_of_one_list_for_both_splits(tmp_path):
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    rows, names = np.empty((1, 2), [(name, object) for name in fields]), np.empty((1, 2), object)
    names[0, :] = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    for number in range(2):
        rows[0, number] = (f"car_ims/00000{number}.jpg", 5, 6, 50, 35, number + 1, number)
        photo_folders.photo(tmp_path / "car_ims" / f"00000{number}.jpg")
    savemat(tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": names})
    first, second = open_photos("cars", tmp_path).photos
    assert (first.label, first.split, first.box) == ("AM General Hummer SUV 2000", "train", (5, 6, 50, 35))
    assert (second.label, second.split, second.source.name) == ("Acura RL Sedan 2012", "test", "000001.jpg")


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("cub", {"CUB_200_2011/images": "CUB_200_2011/Images", "CUB_200_2011/images.txt": "CUB_200_2011/Images.txt"}),
        ("flowers", {"jpg": "JPG", "imagelabels.mat": "ImageLabels.mat"}),
        ("cars", {"cars_train": "Cars_Train", "devkit/cars_meta.mat": "devkit/Cars_meta.mat"}),
        ("pets", {"images": "Images", "annotations": "Annotations"}),
    ],
)
def test_folders_and_files_may_be_spelt_in_another_case(tmp_path, name, moves):
    expected = open_photos(name, getattr(photo_folders, name)(tmp_path / "as-published"))
    root = getattr(photo_folders, name)(tmp_path / "copy")
    for old, new in moves.items():
        (root / old).rename(root / new)
    copy = open_photos(name, root)
    assert [(p.label, p.split, p.box) for p in copy.photos] == [(p.label, p.split, p.box) for p in expected.photos]


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


@pytest.mark.parametrize(
    ("more", "boxes"),
    [
        ([{"bbox": [5.0, 4.0, 3.0, 8.0]}, {"bbox": [2.0, 2.0, 9.0, 9.0]}], [(5, 4, 8, 12), (2, 2, 11, 11)]),  # sizes
        (
            [{"bbox": [15.0, 4.0, 20.0, 19.0]}, {"bbox": [2.0, 2.0, 9.0, 9.0]}],
            [(15, 4, 20, 19), (2, 2, 9, 9)],
        ),  # corners
        ([{"bbox": [2.0, 2.0, 9.0, 9.0]}, {"bbox": None}], "nothing tells whether"),
        ([{"bbox": [0.1, 0.5, 0.6, 1.0]}, {"bbox": None}], "nothing tells the order"),
        (
            [{"bbox": [0.1, 0.5, 0.6, 1.0], "image/filename": "a"}, {"bbox": None, "image/filename": "b"}],
            [(15, 2, 30, 12), None],  # TensorFlow Datasets write y first
        ),
        ([{"bbox": {"xmin": 1, "ymin": 2, "xmax": 9, "ymax": 8}}, {"bbox": None}], [(1, 2, 9, 8), None]),
        ([{"bbox": [[5, 4, 3, 8]]}, {"bbox": [[1, 1, 2, 2]]}], [(5, 4, 8, 12), (1, 1, 3, 3)]),
        ([{"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 9, "bbox_y2": 8}, {"bbox_x1": None}], [(1, 2, 9, 8), None]),
        ([{"bbox": "1 2 9 8"}, {"bbox": "1 2 9 8"}], "boxes of 2 photos are left out"),
    ],
)
def test_boxes_of_a_parquet_copy_are_read_in_the_order_that_all_of_them_tell(tmp_path, more, boxes):
    found = open_photos("cub", photo_folders.parquet(tmp_path, more=more))
    if isinstance(boxes, str):
        assert [photo.box for photo in found.photos] == [None, None]
        assert boxes in found.notes[0]
    else:
        assert [photo.box and pytest.approx(photo.box) for photo in found.photos] == boxes
        assert found.notes == ()


def test_a_parquet_copy_of_aircraft_has_variants_and_families(tmp_path):
    more = [{"family": "Boeing 737"}, {"family": "Boeing 747"}]
    found = open_photos("aircraft", photo_folders.parquet(tmp_path, ("737-200", "747-400"), label="variant", more=more))
    assert found.parents == {"737-200": "Boeing 737", "747-400": "Boeing 747"}


@pytest.mark.parametrize("name", ["cub", "flowers", "cars", "aircraft", "pets", "folders"])
def test_an_empty_folder_is_none_of_them(tmp_path, name):
    with pytest.raises(UserError, match="Give"):
        open_photos(name, tmp_path)


def _moved(root, path, to):
    """Moves a file or folder of a set, as an unpacking program may have laid it."""
    aside = root / "aside"
    (root / path).rename(aside)
    (root / to).parent.mkdir(parents=True, exist_ok=True)
    aside.rename(root / to)


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("cub", [("CUB_200_2011", "data/raw/archive/CUB_200_2011")]),
        ("cub", [("CUB_200_2011/images", "CUB_200_2011/images/images")]),
        ("flowers", [("jpg", "102flowers/jpg")]),
        ("flowers", [("jpg", "102flowers/jpg"), ("imagelabels.mat", "labels/imagelabels.mat")]),
        ("cars", [("devkit", "car_devkit/devkit"), ("cars_train", "cars_train/cars_train")]),
        ("cars", [("cars_test", "cars_test/cars_test")]),
        ("cars", [("cars_test_annos_withlabels.mat", "cars_test_annos_withlabels (1).mat")]),
        ("aircraft", [("fgvc-aircraft-2013b", "sets/fgvc-aircraft-2013b")]),
        ("pets", [("annotations", "annotations/annotations"), ("images", "images/images")]),
        ("folders", [("Fox", "photos/Fox"), ("Badger", "photos/Badger")]),
        ("folders", [("Fox", "Fox/images"), ("Badger", "Badger/images")]),
    ],
)
def test_a_set_is_read_however_its_archives_were_unpacked(tmp_path, name, moves):
    if name == "folders":
        photo_folders.class_folders(tmp_path, ["Badger", "Fox"])
    else:
        getattr(photo_folders, name)(tmp_path)
    before = open_photos(name, tmp_path)
    for path, to in moves:
        _moved(tmp_path, path, to)
    after = open_photos(name, tmp_path)
    assert [(p.label, p.split, p.box) for p in after.photos] == [(p.label, p.split, p.box) for p in before.photos]
    assert all(after.open(photo).size for photo in after.photos)
    assert after.notes == ()


def test_an_archive_that_was_not_unpacked_is_named(tmp_path):
    (tmp_path / "CUB_200_2011.tgz").write_bytes(b"packed")
    with pytest.raises(UserError, match=r"holds no images.txt.*Unpack CUB_200_2011.tgz there first\."):
        open_photos("cub", tmp_path)
    root = photo_folders.flowers(tmp_path / "flowers")
    _moved(root, "jpg", "../elsewhere")
    (root / "102flowers.tgz").write_bytes(b"packed")
    with pytest.raises(UserError, match=r"none of the 4 photos .*Unpack 102flowers.tgz there first\."):
        open_photos("flowers", root)


def test_photos_that_are_not_there_are_left_out_and_counted(tmp_path):
    root = photo_folders.cub(tmp_path / "cub")
    first, *_, last = sorted((root / "CUB_200_2011" / "images").rglob("*.jpg"))
    first.unlink()
    photos = open_photos("cub", root)
    assert len(photos.photos) == 5
    assert photos.notes == (f"1 of 6 photos are not there (as {first}) and are left out",)
    last.unlink()
    last.with_name("Indigo_Bunting_0000_5.jpg").unlink()
    (note,) = open_photos("cub", root).notes
    assert note.endswith("are left out, and with them 1 of 3 classes")


@pytest.mark.parametrize(
    ("name", "files", "splits"),
    [
        ("cub", ["train_test_split.txt"], {""}),
        ("cub", ["bounding_boxes.txt"], {"train", "test"}),
        ("cub", ["classes.txt"], {"train", "test"}),
        ("cub", ["image_class_labels.txt"], {"train", "test"}),
        ("flowers", ["setid.mat"], {""}),
        ("aircraft", ["images_variant_test.txt"], {"train", "val"}),
        ("aircraft", ["images_family_test.txt", "images_box.txt"], {"train", "val", "test"}),
    ],
)
def test_a_list_that_can_be_done_without_may_be_missing(tmp_path, name, files, splits):
    root = getattr(photo_folders, name)(tmp_path)
    labels = [photo.label for photo in open_photos(name, root).photos]
    for file in files:
        (path,) = root.rglob(file)
        path.unlink()
    photos = open_photos(name, root)
    assert {photo.split for photo in photos.photos} == splits
    assert [photo.label for photo in photos.photos] == labels[: len(photos.photos)]


def test_lists_of_pets_and_aircraft_that_hold_several_splits_serve_where_the_others_are_missing(tmp_path):
    pets = photo_folders.pets(tmp_path / "pets")
    lists = pets / "annotations"
    rows = [line for file in ("trainval", "test") for line in (lists / f"{file}.txt").read_text().splitlines()]
    (lists / "list.txt").write_text("\n".join(rows) + "\n")
    assert [photo.split for photo in open_photos("pets", pets).photos] == ["train", "test"]
    for file in ("trainval", "test"):
        (lists / f"{file}.txt").unlink()
    photos = open_photos("pets", pets)
    assert [(photo.label, photo.split) for photo in photos.photos] == [("Abyssinian", ""), ("american bulldog", "")]
    root = photo_folders.aircraft(tmp_path / "aircraft")
    (data,) = root.rglob("data")
    both = [(data / f"images_variant_{part}.txt").read_text() for part in ("train", "val")]
    (data / "images_variant_trainval.txt").write_text("".join(both))
    assert [photo.split for photo in open_photos("aircraft", root).photos] == ["train", "val", "test"]
    for part in ("train", "val"):
        (data / f"images_variant_{part}.txt").unlink()
    assert [photo.split for photo in open_photos("aircraft", root).photos] == ["train", "train", "test"]


@pytest.mark.parametrize("name", ["cub", "aircraft", "pets"])
def test_lists_with_the_line_ends_of_windows_are_read(tmp_path, name):
    root = getattr(photo_folders, name)(tmp_path)
    before = open_photos(name, root).photos
    for path in root.rglob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert open_photos(name, root).photos == before


@pytest.mark.parametrize("classes", [["train", "car", "bus"], ["Fox", "test"], ["Ünïcode", "日本", "a&b", "C++ 'x'"]])
def test_a_class_may_be_called_anything(tmp_path, classes):
    found = open_photos("folders", photo_folders.class_folders(tmp_path, classes))
    assert found.classes == tuple(sorted(classes))
    assert {photo.split for photo in found.photos} == {""}


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "valid", "test"), {"train", "val", "test"}),
        (("training", "validation"), {"train", "val"}),
        (("Train", "Test"), {"train", "test"}),
        (("train", "dev"), {"train", "val"}),
        (("train",), {"train"}),
    ],
)
def test_folders_of_splits_are_known_by_all_their_words(tmp_path, folders, splits):
    photo_folders.class_folders(tmp_path / "above" / "set", ["Fox", "Badger"], folders)
    found = open_photos("folders", tmp_path / "above")
    assert found.classes == ("Badger", "Fox")
    assert len(found.photos) == 2 * len(folders)
    assert {photo.split for photo in found.photos} == splits
    for folder in folders:
        for name in ("Fox", "Badger"):
            photo_folders.photo(tmp_path / "below" / name / folder / "a.jpg")
    assert {photo.split for photo in open_photos("folders", tmp_path / "below").photos} == splits
    photo_folders.photo(tmp_path / "above" / "set" / "test" / "unlabelled.jpg")  # is of no class
    assert open_photos("folders", tmp_path / "above").classes == ("Badger", "Fox")


def test_names_of_class_folders_lose_the_numbers_in_front(tmp_path):
    names = ["017.Cardinal", "3_Blue_Jay", "n02085620-Chihuahua", "1984", "2CV"]
    assert open_photos("folders", photo_folders.class_folders(tmp_path, names)).classes == (
        "1984", "2CV", "Blue Jay", "Cardinal", "Chihuahua",
    )  # fmt: skip


def test_class_folders_with_photos_in_other_formats_say_so(tmp_path):
    photo_folders.class_folders(tmp_path, ["Fox", "Badger"])
    for name in ("Hare/a.bmp", "Wolf/a.tiff", "Wolf/b.tiff"):
        photo_folders.photo(tmp_path / name)
    photo_folders.photo(tmp_path / "Stoat" / "a.gif")
    found = open_photos("folders", tmp_path)
    assert found.classes == ("Badger", "Fox", "Stoat")
    assert found.notes == ("photos in other formats are left out (1 .bmp, 2 .tiff): convert them to JPEG or PNG",)
    photo_folders.photo(tmp_path / "only" / "Hare" / "a.bmp")
    with pytest.raises(UserError, match=r"no folder with photos in it in a format that is read, only \.bmp"):
        open_photos("folders", tmp_path / "only")


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.txt", "LICENCE.md"])
def test_the_licence_of_a_folder_has_any_of_its_usual_names(tmp_path, name):
    photo_folders.class_folders(tmp_path, ["Fox", "Badger"])
    (tmp_path / name).write_text("CC BY 4.0\r\nmore\r\n")
    assert open_photos("folders", tmp_path).licence == "CC BY 4.0"


@pytest.mark.parametrize(
    "head", [b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(512) + b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n"]
)
def test_a_matlab_file_of_version_73_is_told_apart(tmp_path, head):
    root = photo_folders.flowers(tmp_path)
    (root / "imagelabels.mat").write_bytes(head + bytes(200))
    with pytest.raises(UserError, match=r"version 7\.3.*published one, or save this one as version 7"):
        open_photos("flowers", root)


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("default/train/0000.parquet", "train"),
        ("default/validation/0000.parquet", "val"),
        ("test.parquet", "test"),
        ("0000.parquet", ""),
    ],
)
def test_splits_of_a_parquet_copy_are_told_by_files_or_folders(tmp_path, file, split):
    (old,) = photo_folders.parquet(tmp_path).glob("*.parquet")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    old.rename(tmp_path / file)
    assert {photo.split for photo in open_photos("cub", tmp_path).photos} == {split}


def test_a_parquet_copy_of_aircraft_loses_the_banner_too(tmp_path):
    found = open_photos("aircraft", photo_folders.parquet(tmp_path, ("707-320", "F/A-18"), (120, 100)))
    assert found.classes == ("707-320", "F/A-18")
    assert found.open(found.photos[0]).size == (120, 80)


def test_a_split_that_a_set_does_not_have_is_refused_with_those_it_has(tmp_path):
    photos = open_photos("aircraft", photo_folders.aircraft(tmp_path / "a"))
    photos.refuse_unknown_splits(("train", "val"))
    with pytest.raises(UserError, match="--splits validation: aircraft has test, train, val"):
        photos.refuse_unknown_splits(("validation",))
    photos = open_photos("folders", photo_folders.class_folders(tmp_path / "b", ["Fox", "Badger"]))
    with pytest.raises(UserError, match="tells of no splits"):
        photos.refuse_unknown_splits(("train",))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P"])
def test_photos_of_any_mode_are_opened_in_rgb(tmp_path, mode):
    root = photo_folders.class_folders(tmp_path, ["Fox", "Badger"])
    Image.new(mode, (60, 40)).save(root / "Fox" / ("b.gif" if mode == "P" else "b.jpg"))
    found = open_photos("folders", root)
    assert {found.open(photo).mode for photo in found.photos} == {"RGB"}


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


@pytest.mark.parametrize("names", [("0", "1"), ("n02085620", "n02085782"), ("class_1", "class_2")])
def test_classes_without_names_are_told(tmp_path, names):
    for name in names:
        photo_folders.photo(tmp_path / name / "1.png")
    with pytest.raises(UserError, match=rf"have no names but {names[0].replace('_', ' ')}, .*Give the folders"):
        open_photos("folders", tmp_path)


def test_folders_of_one_name_but_for_its_spelling_are_one_class(tmp_path):
    for name in ("Épagneul", unicodedata.normalize("NFD", "Épagneul"), "épagneul", "dog"):
        photo_folders.photo(tmp_path / name / "1.png")
    photos = open_photos("folders", tmp_path)
    assert [len(photos.by_class[name]) for name in photos.classes] == [1, 3]


def test_a_class_in_several_folders_is_told(tmp_path):
    for name in ("cats/front", "cats/side", "dogs/front", "dogs/side"):
        photo_folders.photo(tmp_path / name / "1.png")
    (note,) = open_photos("folders", tmp_path).notes
    assert note.startswith(
        "2 of 2 classes have photos in several folders, such as 'front' in cats/front and dogs/front"
    )
    for split in ("train", "test"):
        photo_folders.photo(tmp_path / "split" / split / "cat" / "1.png")
        photo_folders.photo(tmp_path / "split" / split / "dog" / "1.png")
    assert not open_photos("folders", tmp_path / "split").notes


def test_a_link_to_a_folder_above_makes_no_photo_twice(tmp_path):
    for name in ("cat", "dog"):
        photo_folders.photo(tmp_path / name / "1.png")
    (tmp_path / "cat" / "all").symlink_to(tmp_path)
    assert len(open_photos("folders", tmp_path).photos) == 2
