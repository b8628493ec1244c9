"""A run directory in a bucket. The bucket is TensorStore's store of local files, asked as its others are."""

import json
import os
import time
from dataclasses import dataclass

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.mirror import RunMirror, mirrored
from hypereyes_jax.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class RunSettings:
    steps: int = 4


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/bucket/run"


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".mirror.json"
    }


def test_what_changed_is_copied_and_what_is_gone_is_deleted(tmp_path, url):
    here = tmp_path / "here"
    mirror = RunMirror(url, here)
    assert mirror.fetch() == 0
    write(here, config="1", checkpoints__4__data="four")
    assert mirror.push() == 2
    assert mirror.push() == 0
    (here / "checkpoints/4/data").unlink()
    write(here, metrics="row\n", checkpoints__8__data="eight")
    assert mirror.push() == 2
    assert contents(tmp_path / "bucket/run") == {"config": "1", "metrics": "row\n", "checkpoints/8/data": "eight"}


def test_another_machine_goes_on_from_the_bucket_and_this_one_from_its_own_files(tmp_path, url):
    here, there = tmp_path / "here", tmp_path / "there"
    first = RunMirror(url, here)
    first.fetch()
    write(here, metrics="1\n", checkpoints__4__data="four")
    first.push()
    write(here, metrics="1\n2\n")  # and killed before it was copied
    assert RunMirror(url, here).fetch() == 0
    assert (here / "metrics").read_text() == "1\n2\n"
    second = RunMirror(url, there)
    assert second.fetch() == 2
    assert contents(there) == {"metrics": "1\n", "checkpoints/4/data": "four"}
    assert second.push() == 0  # what was fetched has not changed
    write(there, metrics="1\nother\n")
    assert second.push() == 1
    with pytest.raises(UserError, match="another machine has written"):
        first.push()
    assert RunMirror(url, here).fetch() == 2  # the bucket has gone on since
    assert (here / "metrics").read_text() == "1\nother\n"


def test_what_is_unfinished_or_of_this_machine_stays_here(tmp_path, url):
    here = tmp_path / "here"
    mirror = RunMirror(url, here)
    write(here, config="1")
    for name in (".lock", ".metrics.json.host.7.part", "checkpoints/4.orbax-checkpoint-tmp/data"):
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    os.symlink("/etc/hostname", here / "link")
    assert mirror.push() == 1
    assert contents(tmp_path / "bucket/run") == {"config": "1"}


def test_a_kill_between_files_and_index_leaves_the_copy_before(tmp_path, url):
    here = tmp_path / "here"
    mirror = RunMirror(url, here)
    write(here, checkpoints__4__data="four")
    mirror.push()
    write(tmp_path / "bucket/run", checkpoints__8__data="ei")  # which the index does not name
    again = tmp_path / "again"
    assert RunMirror(url, again).fetch() == 1
    assert contents(again) == {"checkpoints/4/data": "four"}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[", "is not an index"),
        ('{"writer": "a", "files": {"../../x": [1, 1]}}', r"it names \.\./\.\./x"),
        ('{"writer": "a", "files": {"gone": [1, 1]}}', "gone is missing"),
        ('{"writer": "a", "files": 3}', "is not an index"),
    ],
)
def test_a_damaged_copy_is_refused(tmp_path, url, index, message):
    write(tmp_path / "bucket/run", **{".mirror.json": index})
    with pytest.raises(UserError, match=message):
        RunMirror(url, tmp_path / "here").fetch()
    assert not (tmp_path / "x").exists()


def test_a_bucket_that_can_not_be_reached_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    mirror = RunMirror(f"file://{tmp_path}/file/run", tmp_path / "here")
    write(tmp_path / "here", config="1")
    with pytest.raises(UserError, match="can't be read or written"):
        mirror.push()


def test_the_copy_is_made_on_the_way_and_at_the_end_however_it_comes(tmp_path, url, capsys):
    copied = tmp_path / "bucket/run/config"

    def crash():
        with mirrored(url, tmp_path / "cache", seconds=0.02) as here:
            write(here, config="1")
            deadline = time.monotonic() + 20
            while not copied.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert copied.read_text() == "1"
            write(here, last="2")
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        crash()
    assert contents(tmp_path / "bucket/run") == {"config": "1", "last": "2"}
    assert set(json.loads((tmp_path / "bucket/run/.mirror.json").read_text())["files"]) == {"config", "last"}
    assert f"the run is in {url}" in capsys.readouterr().err


def test_the_settings_of_a_run_are_in_the_bucket_before_it_does_anything(tmp_path, url):
    with mirrored(url, tmp_path / "here", seconds=600) as folder, RunDirectory.open(folder, "sft", RunSettings()):
        (config,) = (tmp_path / "bucket").rglob("config.json")
        assert json.loads(config.read_text()) == json.loads((folder / "config.json").read_text())


def test_a_run_whose_checkpoints_lie_in_the_bucket_alone_stays_the_same_run(tmp_path):
    """Killed before anything else was copied, it goes on elsewhere, with the settings it was begun with."""
    here, there = tmp_path / "here", tmp_path / "there"
    with RunDirectory.open(here, "sft", RunSettings()) as first:
        there.mkdir()
        (there / "config.json").write_bytes((here / "config.json").read_bytes())
    (there / ".checkpoints-url").write_text("gs://bucket/run")
    with RunDirectory.open(there, "sft", RunSettings()) as second:
        assert second.run == first.run
    with pytest.raises(UserError, match="steps"):
        RunDirectory.open(there, "sft", RunSettings(steps=9))
