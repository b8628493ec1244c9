"""Files and directories that are whole or absent, and the reader of JSON files, whose faults name the file."""

import contextlib
import json
import os
from pathlib import Path

import pytest

from hypereyes_jax import files
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import (
    append_json_line,
    draft_of,
    mend_last_line,
    read_file,
    read_json,
    read_json_lines,
    read_json_object,
    write_atomic,
    write_json,
    writing_directory,
)

DEAD = 4_194_305  # no process has this number: Linux's largest is one less


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[" * 500 + b"]" * 500,
        b'{"a": ' * 200 + b"1" + b"}" * 200,
        '{"a": "é"}'.encode("latin-1"),
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e400}',
        b'{"a": ' + b"9" * 400 + b"}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\x00" * 100,
    ],
)
def test_damage_is_named(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.json is damaged \(.+\)\. Remove it") as raised:
        read_json(path)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("content", "kind"), [(b"null", "null"), (b"[]", "a list"), (b"3", "a number"), (b'""', "a string")]
)
def test_another_kind_of_value_is_named(tmp_path, content, kind):
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"metrics\.json is damaged \(it holds {kind}, not an object\)"):
        read_json_object(tmp_path / "metrics.json")


def test_what_is_no_regular_file_is_named_and_waited_for_never(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("pipe", "not a regular file"), (".", "Is a directory"), ("gone", "there is no")):
        with pytest.raises(UserError, match=why):
            read_json(tmp_path / name)
    with pytest.raises(UserError, match="not a regular file"):
        read_file(tmp_path / "../../../../../../../../../../dev/zero")


def test_a_file_beyond_the_bound_is_not_read(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    with pytest.raises(UserError, match="has 5 bytes, and at most 4 are read"):
        read_file(tmp_path / "x", 4)


def test_halves_of_surrogate_pairs_are_replaced(tmp_path):
    (tmp_path / "x.json").write_text(r'{"a": "\ud83d", "b": "😀"}')
    assert read_json(tmp_path / "x.json") == {"a": "?", "b": "😀"}


def test_a_torn_last_line_is_left_out_and_cut_off_before_more_is_written(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\n{"a": "\xc3')
    assert [(number, value["a"]) for number, value in read_json_lines(path)] == [(1, 1), (3, 2)]
    mend_last_line(path)
    assert path.read_bytes() == b'{"a": 1}\n\n{"a": 2}\n'
    path.write_bytes(b'{"a": 1}\n{"a": 2}')  # whole but for its newline
    mend_last_line(path)
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    path.write_bytes(b"x" * 200_000)  # no newline at all
    mend_last_line(path)
    assert path.read_bytes() == b""
    mend_last_line(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_not_mended_and_not_waited_for(tmp_path, make):
    make(tmp_path / "lines.jsonl")
    with pytest.raises(UserError, match=r"lines\.jsonl"):
        mend_last_line(tmp_path / "lines.jsonl")


def test_a_damaged_line_before_the_last_is_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a"\n{"a": 2}\n')
    with pytest.raises(UserError, match=r"lines\.jsonl, line 2 is damaged"):
        list(read_json_lines(path))


def written_to(path, text, then=lambda: None):
    with writing_directory(path) as draft:
        (draft / "new").write_text(text)
        then()


def test_a_directory_is_whole_or_as_before(tmp_path):
    out = tmp_path / "deep" / "out"
    written_to(out, "1")
    (out / "old").write_text("old")
    with pytest.raises(ZeroDivisionError):
        written_to(out, "half", then=lambda: 1 / 0)
    assert sorted(path.name for path in out.iterdir()) == ["new", "old"]
    assert (out / "new").read_text() == "1"
    written_to(out, "2")
    assert [path.read_text() for path in out.iterdir()] == ["2"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("target", ["elsewhere", "nowhere", "out"])
def test_of_a_link_in_its_place_only_the_link_is_replaced(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis").write_text("dear")
    (tmp_path / "out").symlink_to(tmp_path / target)
    written_to(tmp_path / "out", "1")
    assert (tmp_path / "out" / "new").read_text() == "1"
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "elsewhere" / "thesis").read_text() == "dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]


def test_the_working_directory_and_a_mount_keep_their_names_and_hidden_files(tmp_path, monkeypatch):
    (tmp_path / ".hidden").write_text("dear")
    (tmp_path / "old").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path)
    number = tmp_path.stat().st_ino
    written_to(tmp_path, "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "new"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    written_to(Path(), "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "new"]
    assert (tmp_path / "new").read_text() == "2"
    assert tmp_path.stat().st_ino == number


def test_a_file_in_the_place_of_a_directory_is_named_and_stays(tmp_path):
    (tmp_path / "out").write_text("dear")
    with pytest.raises(UserError, match="out"):
        written_to(tmp_path / "out", "1")
    assert (tmp_path / "out").read_text() == "dear"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_of_it_goes_when_it_is_written_again(tmp_path, kind):
    host = draft_of(tmp_path / "x").name.split(".")[2]
    drafts = {
        name: tmp_path / name
        for name in (
            f".out.{host}.{DEAD}.part",
            f".former-out.{host}.{DEAD}.part",
            f".out.{host}.{os.getppid()}.part",  # of one that is alive
            f".out.elsewhere.{DEAD}.part",  # of another host, whose processes nobody here knows
            f".other.{host}.{DEAD}.part",
            f".out.{host}.part",
        )
    }
    for draft in drafts.values():
        draft.mkdir()
        (draft / "half").write_bytes(b"x")
    out = tmp_path / "out"
    for number in range(2):
        if kind == "file":
            write_atomic(out, b"whole")
        else:
            with writing_directory(out) as folder:
                (folder / "a").write_text("whole")
        left = {draft.name for draft in drafts.values() if draft.exists()}
        # What the whole one had replaced goes only once there is a whole one again.
        assert left == set(list(drafts)[1 if number == 0 else 2 :])


def test_a_container_removes_nothing_that_another_one_of_its_host_may_be_writing(tmp_path, monkeypatch):
    """Both have the host's name, and neither sees the other's processes."""
    numbers = tmp_path / "numbers"
    numbers.touch()
    monkeypatch.setattr(files, "_PROCESS_NUMBERS", numbers)
    monkeypatch.setattr(files, "_NUMBERS_OF_HOST", numbers.stat().st_ino)
    of_host = draft_of(tmp_path / "out").name
    monkeypatch.setattr(files, "_NUMBERS_OF_HOST", 1)
    own = draft_of(tmp_path / "out").name
    assert own != of_host
    theirs, mine = (tmp_path / name.replace(f".{os.getpid()}.", f".{DEAD}.") for name in (of_host, own))
    for draft in (theirs, mine):
        draft.write_bytes(b"half")
    write_atomic(tmp_path / "out", b"whole")
    assert (theirs.exists(), mine.exists()) == (True, False)
    files.remove_dead_drafts(tmp_path)  # of a directory that is locked: whoever wrote that has ended
    assert not theirs.exists()


def test_a_look_for_what_was_left_stays_cheap_in_a_folder_of_many_files(tmp_path, monkeypatch):
    looked: list[str] = []
    scandir = os.scandir
    for number in range(1500):
        (tmp_path / str(number)).touch()
    monkeypatch.setattr(files.os, "scandir", lambda path: contextlib.closing(_counted(scandir(path), looked)))
    draft_of(tmp_path / "out")
    assert len(looked) == 1000


def _counted(entries, looked):
    for entry in entries:
        looked.append(entry.name)
        yield entry


@pytest.mark.parametrize(
    ("name", "read"),
    [(os.fsencode("旗").decode("ascii", "surrogateescape"), "旗"), ("\udce9", "\ufffd"), ("a\ud83db", "a?b")],
)
def test_a_name_that_the_locale_has_no_letters_for_is_written_as_text(tmp_path, name, read):
    write_json(tmp_path / "one", {"path": name})
    append_json_line(tmp_path / "lines", {"path": name})
    for file in ("one", "lines"):
        assert json.loads((tmp_path / file).read_text(encoding="utf-8")) == {"path": read}
