import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hypereyes_jax import files
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs import run_directory as run_dir
from hypereyes_jax.runs.run_directory import RunDirectory, to_jsonable


class Mode(StrEnum):
    FAST = "fast"


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-3


@dataclass(frozen=True)
class Config:
    out: Path = Path("x")
    steps: int = 3
    mode: Mode = Mode.FAST
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1, 2)


def test_the_configuration_is_saved_with_versions_and_revision(tmp_path):
    run = RunDirectory.open(tmp_path / "a" / "b", "sft", Config())
    saved = json.loads(run.file("config.json").read_text())
    assert saved["command"] == "sft"
    assert saved["config"] == {
        "out": "x",
        "steps": 3,
        "mode": "fast",
        "inner": {"rate": 0.001},
        "sizes": [1, 2],
    }
    assert saved["versions"]["jax"]
    assert "git" in saved


def begun(path: Path, command: str = "sft", config: object = None, **named: Any) -> RunDirectory:
    """A run that has done some work."""
    run = RunDirectory.open(path, command, config or Config(), **named)
    run.file("metrics.jsonl").touch()
    return run


def test_the_same_settings_continue_and_others_are_refused(tmp_path):
    begun(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    RunDirectory.open(tmp_path, "sft", Config(out=Path("y")), may_differ=frozenset({"out"}))
    assert (tmp_path / "config.json").read_bytes() == before
    with pytest.raises(UserError, match="steps was 3, is 4"):
        RunDirectory.open(tmp_path, "sft", Config(steps=4))
    with pytest.raises(UserError, match="holds a run of `sft`"):
        RunDirectory.open(tmp_path, "rl", Config())


def test_every_start_is_noted_with_its_revision_and_what_differs(tmp_path, monkeypatch):
    for revision, out in (("first", "x"), ("second", "y")):
        monkeypatch.setattr(run_dir, "git_revision", lambda revision=revision: revision)
        config = Config(out=Path(out))
        RunDirectory.open(tmp_path, "sft", config, may_differ=frozenset({"out"}), devices="8 x TPU v5")
        (tmp_path / "metrics.jsonl").touch()  # work was done
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert [(start["git"], start["different"]) for start in starts] == [("first", {}), ("second", {"out": "y"})]
    assert all(start["versions"]["tensorstore"] and start["devices"] == "8 x TPU v5" for start in starts)
    assert json.loads((tmp_path / "config.json").read_text())["git"] == "first"


def test_a_part_of_a_setting_may_differ_and_another_is_named(tmp_path):
    begun(tmp_path)
    other = Config(inner=Inner(2e-3))
    RunDirectory.open(tmp_path, "sft", other, may_differ=frozenset({"inner.rate"}))
    with pytest.raises(UserError, match=r"inner\.rate was 0\.001, is 0\.002"):
        RunDirectory.open(tmp_path, "sft", other, may_differ=frozenset({"inn", "inner.ra"}))


def test_a_command_that_did_nothing_yet_may_be_corrected(tmp_path):
    RunDirectory.open(tmp_path, "sft", Config(steps=3))  # and then a typo in a path ended it
    RunDirectory.open(tmp_path, "sft", Config(steps=4))
    assert json.loads((tmp_path / "config.json").read_text())["config"]["steps"] == 4


def test_data_may_move_but_not_change(tmp_path):
    here, there, other = (tmp_path / name for name in ("here.jsonl", "there.jsonl", "other.jsonl"))
    for path, text in ((here, "a"), (there, "a"), (other, "b")):
        path.write_text(text)
    run = tmp_path / "run"
    begun(run, config={"questions": str(here)}, inputs={"questions": here})
    RunDirectory.open(run, "sft", {"questions": str(there)}, inputs={"questions": there})
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert starts[-1]["different"] == {"questions": str(there)}
    with pytest.raises(UserError, match=r"other data: the content of questions \(.*other\.jsonl\)"):
        RunDirectory.open(run, "sft", {"questions": str(other)}, inputs={"questions": other})
    here.write_text("b")  # the same name is not enough
    with pytest.raises(UserError, match="other data"):
        RunDirectory.open(run, "sft", {"questions": str(here)}, inputs={"questions": here})


def test_a_damaged_configuration_is_named(tmp_path):
    begun(tmp_path)
    (tmp_path / "config.json").write_text('{"command": ')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        RunDirectory.open(tmp_path, "sft", Config())


def test_a_run_whose_configuration_is_lost_is_refused_and_a_folder_of_other_files_is_not(tmp_path):
    run = begun(tmp_path / "run")
    run.file("config.json").unlink()
    run.close()
    with pytest.raises(UserError, match=r"config\.json is missing.*Put config\.json back, or choose another"):
        RunDirectory.open(tmp_path / "run", "sft", Config(steps=9))
    (tmp_path / "run" / "config.json").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"config\.json"):
        RunDirectory.open(tmp_path / "run", "sft", Config(steps=9))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").touch()
    RunDirectory.open(tmp_path / "notes", "sft", Config()).close()


def test_what_a_new_run_would_replace_is_refused_and_stays(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("years of work")
    with pytest.raises(
        UserError, match=r"holds model, which `hypereyes sft` would replace, and its config\.json is missing"
    ):
        RunDirectory.open(tmp_path, "sft", Config(), writes=("adapter", "mod*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "model"]
    run = RunDirectory.open(tmp_path, "sft", Config(), writes=("adapter",))
    run.close()
    run.file("adapter").mkdir()  # the run's own: the same command continues with it
    RunDirectory.open(tmp_path, "sft", Config(), writes=("adapter", "model")).close()


@pytest.mark.parametrize("beside", ["nothing", "model.safetensors"])
def test_a_config_that_is_no_runs_stays_as_it_is(tmp_path, beside):
    text = '{"model_type": "qwen3_vl"}'
    (tmp_path / "config.json").write_text(text)
    if beside != "nothing":
        (tmp_path / beside).touch()
    with pytest.raises(
        UserError, match=r"config\.json is not that of a run, but of a model or something else\. Choose another"
    ):
        RunDirectory.open(tmp_path, "sft", Config())
    assert (tmp_path / "config.json").read_text() == text


def test_a_damaged_address_of_checkpoints_is_named(tmp_path):
    run = begun(tmp_path)
    assert run.checkpoints("rl-checkpoints") == tmp_path / "rl-checkpoints"
    run.file(".checkpoints-url").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"\.checkpoints-url is damaged"):
        run.checkpoints("rl-checkpoints")


def test_a_run_keeps_its_id_and_refuses_what_carries_anothers(tmp_path):
    run, other = begun(tmp_path / "a"), begun(tmp_path / "b")
    run.close()
    again = RunDirectory.open(tmp_path / "a", "sft", Config())
    assert again.run == run.run != other.run
    again.refuse_other_run(again.file("x"), run.run)
    again.refuse_other_run(again.file("x"), "")
    with pytest.raises(UserError, match=r"x was written by another run than the one that .*a/config\.json describes"):
        again.refuse_other_run(again.file("x"), other.run)


def test_a_part_that_was_copied_from_another_run_is_not_found(tmp_path):
    run, other = begun(tmp_path / "a"), begun(tmp_path / "b")
    other.part(50).write_text("another seed's")
    (run.path / "parts").mkdir()
    (run.path / "parts" / other.part(50).name).write_text("another seed's")
    assert not run.part(50).exists()
    run.part(50).write_text("ours")
    run.close()
    assert RunDirectory.open(tmp_path / "a", "sft", Config()).part(50).read_text() == "ours"


def test_a_kill_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"old": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_full_disk_names_the_file_and_the_cure(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"metrics\.json.*disk is full.*Free some space"):
        files.write_json(tmp_path / "metrics.json", {})
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_of_the_directory_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"runs.*Choose another"):
        RunDirectory.open(tmp_path / "runs" / "a", "sft", Config())
    with pytest.raises(UserError, match=r"runs.*Choose another"):
        RunDirectory.open(tmp_path / "runs", "sft", Config())


def test_infinities_are_refused_in_results(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "metrics.json", {"x": float("inf")})


def test_an_unknown_value_in_a_configuration_is_an_error():
    with pytest.raises(TypeError, match="can't hold a object"):
        to_jsonable({"x": object()})


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()  # its number is free, and nobody's
    mine, alive, other = "here", os.getppid(), "elsewhere"

    def draft(name: str, host: str, pid: int, hours: float = 0.0) -> Path:
        path = tmp_path / f".{name}.{host}.{pid}.part"
        if name == "model":
            path.mkdir()
            (path / "model.safetensors").write_bytes(b"half")
        else:
            path.write_text("half")
        for each in (*path.glob("*"), path):
            os.utime(each, (time.time() - 3600 * hours,) * 2)
        return path

    with mock.patch("platform.node", return_value=mine):
        gone = [
            draft("model", mine, child.pid),
            draft("metrics.json", mine, child.pid),
            draft("synth.json", mine, os.getpid()),  # of a process before, in a container that counts from 1 anew
            draft("model", other, 7, hours=25),
        ]
        kept = [
            draft("model", mine, alive),
            draft("model", other, child.pid, hours=23),
            draft("seen.jsonl", other, child.pid),
        ]
        kept[0].joinpath("model.safetensors").write_bytes(b"more")
        (tmp_path / "rl-model").mkdir()
        (tmp_path / ".other.part").write_text("not of this kind")
        RunDirectory.open(tmp_path, "sft", Config())
        assert files.draft_of(tmp_path / "model").name == f".model.{mine}.{os.getpid()}.part"
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in (*kept, tmp_path / "rl-model", tmp_path / ".other.part"))


def test_a_run_of_others_keeps_its_drafts(tmp_path):
    begun(tmp_path)
    draft = files.draft_of(tmp_path / "model")
    draft.mkdir()
    with pytest.raises(UserError):
        RunDirectory.open(tmp_path, "rl", Config())
    assert draft.exists()
