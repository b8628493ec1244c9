"""Small photo sets in the layouts of the published ones, for the tests of this folder."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat


def photo(path, size=(60, 40), colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 90, 160)).save(path)


def cub(root):
    base = root / "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "014.Indigo_Bunting"]
    lists = {"images": [], "image_class_labels": [], "train_test_split": [], "bounding_boxes": []}
    number = 0
    for index, name in enumerate(names, start=1):
        for copy in range(2):
            number += 1
            path = f"{name}/{name[4:]}_{copy:04d}_{number}.jpg"
            photo(base / "images" / path, colour=40 * number)
            lists["images"].append(f"{number} {path}")
            lists["image_class_labels"].append(f"{number} {index}")
            lists["train_test_split"].append(f"{number} {1 - copy}")
            lists["bounding_boxes"].append(f"{number} 10.0 5.0 30.0 20.0")
    lists["classes"] = [f"{index} {name}" for index, name in enumerate(names, start=1)]
    for name, lines in lists.items():
        (base / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def flowers(root):
    root.mkdir(parents=True, exist_ok=True)
    labels = [77, 54, 74, 54]
    for number in range(1, 5):
        photo(root / "jpg" / f"image_{number:05d}.jpg")
    savemat(root / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    parts = {"trnid": np.array([[1]]), "valid": np.array([[2]]), "tstid": np.array([[3, 4]])}
    savemat(root / "setid.mat", {key: value.astype(np.uint16) for key, value in parts.items()})
    return root


def cars(root):
    kind = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    names = np.empty((1, 2), object)
    names[0, :] = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    (root / "devkit").mkdir(parents=True, exist_ok=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    for file, folder, label in (
        ("devkit/cars_train_annos.mat", "cars_train", 2),
        ("cars_test_annos_withlabels.mat", "cars_test", 1),
    ):
        rows = np.empty((1, 1), kind)
        rows[0, 0] = (5, 6, 50, 35, label, "00001.jpg")
        savemat(root / file, {"annotations": rows})
        photo(root / folder / "00001.jpg")
    return root


def aircraft(root):
    data = root / "fgvc-aircraft-2013b" / "data"
    rows = {
        "train": ("0056978", "707-320", "Boeing 707"),
        "val": ("0061581", "ATR-42", "ATR-42"),
        "test": ("0034309", "F/A-18", "F/A-18"),
    }
    for split, (image, variant, family) in rows.items():
        photo(data / "images" / f"{image}.jpg", (120, 100))
        (data / f"images_variant_{split}.txt").write_text(f"{image} {variant}\n")
        (data / f"images_family_{split}.txt").write_text(f"{image} {family}\n")
    (data / "images_box.txt").write_text("0056978 10 20 90 70\n")
    return root


def pets(root):
    rows = [("Abyssinian_100", 1, 1, 1, "trainval"), ("american_bulldog_7", 2, 2, 1, "test")]
    (root / "annotations" / "xmls").mkdir(parents=True, exist_ok=True)
    for file in ("trainval", "test"):
        lines = [f"{name} {label} {species} {breed}" for name, label, species, breed, part in rows if part == file]
        (root / "annotations" / f"{file}.txt").write_text(
            "#Image CLASS-ID SPECIES BREED ID\n" + "\n".join(lines) + "\n"
        )
    for name, *_ in rows:
        photo(root / "images" / f"{name}.jpg")
    box = "<xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>25</ymax>"
    (root / "annotations" / "xmls" / "Abyssinian_100.xml").write_text(
        f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    )
    return root


def class_folders(root, classes, splits=("",), size=(60, 40)):
    for index, name in enumerate(classes):
        for split in splits:
            photo(root / split / name / "a.jpg", size, 30 * index)
    return root


def parquet(root, names=("001.Black_footed_Albatross", "002.Laysan_Albatross"), size=(30, 20), label="label", more=()):
    """As `datasets` writes a set with a ClassLabel; `more`: further columns of each row."""
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {label: {"names": list(names), "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    columns = pa.Table.from_pylist(list(more) or [{}] * len(names))
    rows = []
    for number in range(len(names)):
        buffer = io.BytesIO()
        Image.new("RGB", size, (number, 0, 0)).save(buffer, "PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, label: number})
    table = pa.Table.from_pylist(rows, pa.schema([("image", picture), (label, pa.int64())]))
    for name in columns.column_names:
        table = table.append_column(name, columns[name])
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), root / "train-00000-of-00001.parquet")
    return root
