"""Sources on other machines: hub data sets against a server on loopback, stores through fsspec's memory."""

import gzip
import io
import json
import logging
import os
import subprocess
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hypereyes_jax.data import open_questions
from hypereyes_jax.data.sources import remote
from hypereyes_jax.data.sources.splits import SplitFiles
from hypereyes_jax.errors import UserError
from tests.models.hub_server import Hub, serving

from .conftest import encoded


def rows(*names, image=None):
    lines = [{"id": name, "question": "q?", "answer": "a"} | ({"image": image} if image else {}) for name in names]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    files = {
        "data/train-00000-of-00002.jsonl": rows("a", image="pics/red.png"),
        "data/train-00001-of-00002.jsonl": rows("b"),
        "data/test-00000-of-00001.jsonl": rows("c"),
        "data/pics/red.png": encoded("red"),
        "README.md": b"x",
        "cache.pkl": b"\x80\x04.",
    }
    with serving(Hub(files, kind="datasets")) as server:
        monkeypatch.setattr(remote, "_ENDPOINT", server.endpoint)
        yield server


def test_a_split_of_a_hub_data_set_with_pictures_fetched_when_they_are_needed(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with open_questions("org/name", cache=tmp_path) as questions:
        assert list(questions.ids) == ["a", "b"]
        assert "data/pics/red.png" not in hub.fetched
        assert questions[0].images[0].getpixel((0, 0)) == (255, 0, 0)
    assert sorted(set(hub.fetched)) == ["data/pics/red.png", *sorted(n for n in hub.files if "train" in n)]
    assert "Bearer hf_secret" in hub.tokens
    assert open_questions("org/name:test", cache=tmp_path).ids == ("c",)
    assert open_questions("org/name@main:test", cache=tmp_path).ids == ("c",)
    with pytest.raises(UserError, match="no files for the split 'dev'; it has data/test-00000"):
        open_questions("org/name:dev", cache=tmp_path)


def test_the_card_says_which_files_a_split_has(hub, tmp_path):
    hub.card = {"configs": [{"config_name": "end2end", "data_files": [{"split": "end2end", "path": "data/test-*"}]}]}
    assert open_questions("org/name:end2end", cache=tmp_path).ids == ("c",)
    part = {"config_name": "a", "data_files": [{"split": "train", "path": "data/train-*"}]}
    hub.card = {"configs": [part, part | {"config_name": "b", "data_files": "data/test-*"}]}
    assert open_questions("org/name:b/train", cache=tmp_path).ids == ("c",)
    with pytest.raises(UserError, match=r"org/name has several configurations \(a, b\). Say which .*org/name:a\.$"):
        open_questions("org/name", cache=tmp_path)


def test_rows_of_the_hub_that_are_compressed_are_read_and_archives_have_the_cure(hub, tmp_path):
    hub.files["rows.jsonl.gz"] = gzip.compress(rows("z"))
    hub.files["rows.tar.gz"] = b"\x1f\x8b"
    hub.card = {"configs": [{"config_name": "a", "data_files": "rows.jsonl.gz"}]}
    assert open_questions("org/name", cache=tmp_path).ids == ("z",)
    hub.card = {"configs": [{"config_name": "a", "data_files": "rows.tar.gz"}]}
    with pytest.raises(UserError, match=r"holds its rows in archives \(rows\.tar\.gz\)\. Download and unpack it"):
        open_questions("org/name", cache=tmp_path)


def test_hub_problems_are_told_in_one_sentence(hub, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nor a data set of the hub that your token may see"):
        open_questions("org/other", cache=tmp_path)
    with pytest.raises(UserError, match="has no such revision"):
        open_questions("org/name@v9", cache=tmp_path)
    hub.gated = True
    with pytest.raises(UserError, match="the data set org/name is gated: accept its terms"):
        open_questions("org/name", cache=tmp_path)
    monkeypatch.setattr(remote, "_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the hub was not reached"):
        open_questions("org/name", cache=tmp_path / "empty")


def test_offline_a_data_set_comes_from_the_cache_or_is_said_to_be_missing(tmp_path):
    code = "from hypereyes_jax.data import open_questions; open_questions('org/name')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "the data set org/name is not in the cache, and HF_HUB_OFFLINE forbids fetching it" in done.stderr


def test_a_remote_store_is_copied_once_and_pictures_lie_beside_the_file(tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    store.pipe("/set/q.jsonl", rows("a", image="pics/red.png") + rows("b", image="../secret.png"))
    store.pipe("/set/pics/red.png", encoded("red"))
    store.pipe("/secret.png", encoded("red"))
    with pytest.raises(UserError, match=r"memory://set/q.jsonl, line 2: the image ../secret.png leads out"):
        open_questions("memory://set/q.jsonl", cache=tmp_path)
    opened = []
    real = type(store).open
    monkeypatch.setattr(
        type(store), "open", lambda self, path, *a, **k: opened.append(path) or real(self, path, *a, **k)
    )
    with open_questions("memory://set/*.jsonl", cache=tmp_path, bad_rows="skip") as questions:
        assert questions.ids == ("a",)
        assert questions[0].images[0].getpixel((0, 0)) == (255, 0, 0)
    assert not [path for path in opened if path.endswith("q.jsonl")]  # copied before
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"question": "q", "answer": "a"}]), buffer)
    store.pipe("/set/more/x.parquet", buffer.getvalue())
    assert len(open_questions("memory://set/more", cache=tmp_path)) == 1
    with pytest.raises(UserError, match="there is no data file at memory://set/none"):
        open_questions("memory://set/none.jsonl", cache=tmp_path)
    with pytest.raises(UserError, match="can't be opened"):
        open_questions("nosuch://x/y.jsonl", cache=tmp_path)


def test_what_a_store_logs_is_not_printed_beside_what_it_raises(tmp_path, monkeypatch, capsys):
    def fail(url):
        logging.getLogger("gcsfs").exception("out of retries")
        raise OSError("no network")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    for name in (None, "gcsfs"):  # as in a command, where nobody has set up what is logged
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    with pytest.raises(UserError, match=r"gs://bucket/rows.jsonl can't be read \(OSError\)"):
        open_questions("gs://bucket/rows.jsonl")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("page", ["", "/", "/tree/main", "/viewer/default/train"])
def test_the_page_of_a_data_set_names_it(hub, tmp_path, page):
    with open_questions(f"https://huggingface.co/datasets/org/name{page}", cache=tmp_path) as questions:
        assert questions.ids == ("a", "b")


def test_the_page_of_a_file_names_it(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(remote, "files", lambda url, cache: asked.append(url) or SplitFiles([]))
    with pytest.raises(UserError, match="has no files"):
        open_questions("https://huggingface.co/datasets/org/set/blob/main/data/blob/x.parquet", cache=tmp_path)
    assert asked == ["https://huggingface.co/datasets/org/set/resolve/main/data/blob/x.parquet"]
