"""Files compressed as a whole, each written by the library that people write it with, against the plain file."""

import bz2
import gzip
import json
import lzma
import pickle

import numpy as np
import pyarrow as pa
import pytest

from hypereyes_jax.cli.main import main
from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.sources import compressed
from hypereyes_jax.errors import UserError
from tests.data.sources.conftest import encoded

ROWS = [{"question": f"Which is {i}?", "answer": "red", "image": f"pics/{i}.png"} for i in range(3)]


def by_pyarrow(codec):
    def compress(data):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as file:
            file.write(data)
        return sink.getvalue().to_pybytes()

    return compress


COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": by_pyarrow("zstd"),
    ".lz4": by_pyarrow("lz4"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def json_lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize(
    "plain", [json_lines(), json.dumps(ROWS).encode(), b"question,answer,image\nq,red,pics/0.png\n"]
)
def test_rows_and_pictures_are_those_of_the_plain_file(pictures, suffix, plain):
    (pictures / "rows.jsonl").write_bytes(plain)
    packed = pictures / f"packed.jsonl{suffix}"
    packed.write_bytes(COMPRESS[suffix](plain))
    with open_questions(packed) as found, open_questions(pictures / "rows.jsonl") as expected:
        assert [(q.text, q.answers) for q in found] == [(q.text, q.answers) for q in expected]
        assert np.array_equal(found[0].images[0], expected[0].images[0])
        assert found.ids[0] == expected.ids[0].replace("rows-", "packed-")
        (name,) = found.report.formats
        assert name.startswith(f"{next(iter(expected.report.formats))}, compressed by ")
        again = pickle.loads(pickle.dumps(found))
        assert again[len(again) - 1].text == found[len(found) - 1].text


@pytest.mark.parametrize("suffix", COMPRESS)
def test_files_put_together_behind_one_another_are_read_whole(pictures, suffix):
    halves = [COMPRESS[suffix](json_lines(rows)) for rows in (ROWS[:1], ROWS[1:])]
    (pictures / "rows.jsonl").write_bytes(b"".join(halves))  # whatever its name says
    assert len(open_questions(pictures / "rows.jsonl")) == 3


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_that_is_cut_short_is_refused_by_name_and_leaves_no_copy(pictures, suffix, cache):
    path = pictures / f"rows.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](json_lines(ROWS * 100))[:-9])
    with pytest.raises(UserError, match=rf"rows\.jsonl\{suffix} is broken or cut short: .*Download or make"):
        open_questions(path)
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_a_file_is_unpacked_once_and_again_when_it_changed(pictures, cache, capsys):
    path = pictures / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines()))
    for _ in range(2):
        questions = open_questions(path)
    assert capsys.readouterr().out.count("is compressed: it is unpacked to") == 1
    path.write_bytes(gzip.compress(json_lines(ROWS[:2])))
    with pytest.raises(UserError, match=r"rows\.jsonl\.gz changed while it was read"):
        questions[0]
    assert len(open_questions(path)) == 2
    assert len([file for file in cache.rglob("*") if file.is_file()]) == 2


def test_more_than_the_disk_has_room_for_is_refused(pictures, cache, monkeypatch):
    monkeypatch.setattr(compressed, "_SPARE_BYTES", 1 << 60)
    path = pictures / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines()))
    with pytest.raises(UserError, match=r"rows\.jsonl\.gz holds more than the disk of .* has room for"):
        open_questions(path)
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_a_folder_is_read_by_splits_and_a_plain_file_before_the_same_one_compressed(pictures):
    (pictures / "train-0.jsonl.gz").write_bytes(gzip.compress(json_lines(ROWS[:1])))
    (pictures / "train-1.jsonl.zst").write_bytes(COMPRESS[".zst"](json_lines(ROWS[1:2])))
    (pictures / "test.jsonl.gz").write_bytes(gzip.compress(json_lines(ROWS[2:])))
    assert [q.text for q in open_questions(pictures)] == ["Which is 0?", "Which is 1?"]
    assert [q.text for q in open_questions(f"{pictures}:test")] == ["Which is 2?"]
    assert len(open_questions(str(pictures / "train-*"))) == 2
    (pictures / "train-0.jsonl").write_bytes(json_lines(ROWS[:1]))
    with open_questions(pictures) as questions:
        assert questions.ids == ("train-0-1",)
        assert questions.report.unread_files == ("train-0.jsonl.gz", "train-1.jsonl.zst")


def test_what_is_wrong_with_a_row_names_the_file_that_was_given(pictures, capsys):
    talk = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "<answer>I</answer>"}]}
    path = pictures / "talks.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines([talk, {"messages": []}])))
    assert len(open_examples(path, bad_rows="skip")) == 1
    assert main(["data", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "files: 1 x JSON lines, compressed by gzip" in said
    assert "talks.jsonl.gz, line 2" in said


def test_a_picture_inside_a_compressed_table_is_read(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["Which?"], "answer": ["red"], "image": [encoded("red")]}), tmp_path / "t")
    (tmp_path / "t.parquet.gz").write_bytes(gzip.compress((tmp_path / "t").read_bytes()))
    assert open_questions(tmp_path / "t.parquet.gz")[0].images[0].getpixel((0, 0)) == (255, 0, 0)
