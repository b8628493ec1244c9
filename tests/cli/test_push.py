from __future__ import annotations

import functools
import json
import os
import tempfile

import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.models import hub as hub_module
from hypereyes_jax.models.hub import upload
from tests.models.hub_server import Hub, serving

real = tempfile.TemporaryDirectory


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "rl"
    (path / "model").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"command": "rl", "config": {"checkpoint": "org/base"}}))
    (path / "model" / "config.json").write_text("{}")
    (path / "model" / "model.safetensors").write_bytes(b"weights")
    return path


def test_a_finished_model_is_pushed_with_its_card(run, monkeypatch, capsys):
    with serving(Hub()) as hub:
        monkeypatch.setattr(hub_module, "upload", functools.partial(upload, endpoint=hub.endpoint))
        assert cli.main(["push", str(run), "org/name"]) == 0
        assert f"pushed {hub.endpoint}/org/name/commit/{hub.SHA}" in capsys.readouterr().out
    assert hub.committed.keys() == {"README.md", "config.json", "model.safetensors"}
    assert hub.committed["model.safetensors"] == b"weights"
    assert b"base_model: org/base" in hub.committed["README.md"]
    assert hub.summary == "rl"
    assert {path.name for path in run.iterdir()} == {"config.json", "model"}, "a draft was left"


def test_a_models_own_readme_stays_and_the_card_takes_its_place_on_the_hub(run, monkeypatch):
    (run / "model" / "README.md").write_text("mine")
    with serving(Hub()) as hub:
        monkeypatch.setattr(hub_module, "upload", functools.partial(upload, endpoint=hub.endpoint))
        assert cli.main(["push", str(run), "org/name"]) == 0
    assert (run / "model" / "README.md").read_text() == "mine"
    assert b"base_model: org/base" in hub.committed["README.md"]


def test_a_run_that_nobody_may_write_to_is_pushed(run, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write where the mode forbids it
    written = set()
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda **kw: written.add(kw["dir"]) or real(**kw))
    with serving(Hub()) as hub:
        monkeypatch.setattr(hub_module, "upload", functools.partial(upload, endpoint=hub.endpoint))
        assert cli.main(["push", str(run), "org/name"]) == 0
    assert written == {None}


def test_a_models_directory_is_no_run_to_be_pushed(run, capsys):
    (run / "config.json").write_text('{"model_type": "qwen3_vl"}')
    assert cli.main(["push", str(run), "org/name"]) == 2
    assert "config.json is not that of a run" in capsys.readouterr().err.replace("\n", " ")


def test_what_is_no_file_in_a_model_is_named(run, capsys):
    os.mkfifo(run / "model" / "notes")
    assert cli.main(["push", str(run), "org/name"]) == 2
    assert "notes is not a regular file" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "message"),
    [(["not an id"], "not a repository of the hub"), (["org/name", "--step", "3"], "checkpoint of step 3")],
)
def test_what_cannot_be_pushed_is_said(run, capsys, words, message):
    settings = {"learner": {"train": "full", "compute_dtype": "float32"}, "min_pixels": 1, "max_pixels": 2}
    saved = {"command": "rl", "config": {"checkpoint": "org/base", "sizes": settings}}
    (run / "config.json").write_text(json.dumps(saved))
    assert cli.main(["push", str(run), *words]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_run_without_a_finished_model_asks_for_a_step(run, capsys):
    (run / "model" / "config.json").unlink()
    assert cli.main(["push", str(run), "org/name"]) == 2
    assert "give --step" in capsys.readouterr().err
