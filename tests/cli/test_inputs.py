"""What can't work is told before jax is imported, and before a run directory comes into being."""

from importlib import resources

import pytest

from hypereyes_jax.cli.inputs import refuse_missing_checkpoint
from hypereyes_jax.cli.main import main
from hypereyes_jax.data.sources.locate import refuse_missing
from hypereyes_jax.errors import UserError
from tests.forked import run_forked

BASE = str(resources.files("hypereyes_jax.assets") / "base")
IMPORTS = (
    "import numpy, rich.console, tyro; from hypereyes_jax.cli import main, eval, export, plan, report, rl, serve, sft"
)
PIECE = """
import sys
from hypereyes_jax.cli.main import main
code = main({words!r})
assert "jax" not in sys.modules, "jax was imported"
sys.exit(code)
"""
GONE = "/no/such/place"
TRAINED_ON = ["--questions", "org/questions"]
CASES = {
    "a checkpoint of sft": (["sft", "--checkpoint", GONE, "--demonstrations", "org/data"], "--checkpoint /no/such"),
    "demonstrations": (["sft", "--checkpoint", BASE, "--demonstrations", GONE], f"there is no {GONE}"),
    "questions": (["rl", "--checkpoint", BASE, "--questions", GONE], f"there is no {GONE}"),
    "a teacher": (["rl", "--checkpoint", BASE, *TRAINED_ON, "--teacher", GONE], "--teacher /no/such"),
    "a recipe's services": (["rl", "hypereyes_8b_rl", "--checkpoint", BASE, *TRAINED_ON], "needs a search service"),
    "references and no selection": (
        ["rl", "--checkpoint", BASE, *TRAINED_ON, "--references", "refs.json", "--select", "no"],
        "leave out --select no",
    ),
    "a mesh": (["rl", "--checkpoint", BASE, *TRAINED_ON, "--mesh", "v5p_65"], "Did you mean v5p_64?"),
    "settings that are ignored": (
        ["sft", "--checkpoint", BASE, "--demonstrations", "org/data", "--sizes.learner.opd-coef", "0.1"],
        "--settings.opd-coef",
    ),
    "a checkpoint of eval": (["eval", GONE], "CHECKPOINT /no/such/place: there is no such directory"),
    "a recipe of eval": (["eval", BASE, "--recipe", "hypereyes_9b_rl"], "there is no recipe"),
    "a manner of splits": (["eval", BASE, "--manner", "serial"], "--manner needs a source of questions"),
    "a budget of a fixed plan": (
        ["eval", BASE, "--benchmark", "imeb-mini", "--manner", "workflow", "--budget", "2"],
        "--budget must be at least 0 rounds",
    ),
    "distractors of a service": (
        ["eval", BASE, "--benchmark", "imeb-mini", "--distractors", "2", "--search.service", "retriever"],
        "--distractors are pages of the miniature's world",
    ),
    "a benchmark that the world can't answer": (["eval", BASE, "--benchmark", "fvqa"], "Give --search.service"),
    "two sources of questions": (
        ["eval", BASE, "--benchmark", "imeb-mini", "--questions", "org/questions"],
        "not both",
    ),
    "a checkpoint of serve": (["serve", GONE], "CHECKPOINT /no/such"),
    "a checkpoint of export": (["export", "--checkpoint", GONE, "--out", "out"], "--checkpoint /no/such"),
    "two sources of export": (["export", "--checkpoint", BASE, "--run", "runs", "--out", "out"], "give either"),
    "a run of report": (["report", GONE], f"there is no {GONE}"),
    "a recipe of plan": (["plan", "hypereyes_9b_rl"], "there is no recipe"),
}


def test_it_is_told_before_jax_is_imported_and_nothing_is_written(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    pieces = [f"import os; os.chdir({str(tmp_path)!r})\n{PIECE.format(words=words)}" for words, _ in CASES.values()]
    for (name, (_, sentence)), ran in zip(CASES.items(), run_forked(IMPORTS, pieces), strict=True):
        assert ran.code == 2, f"{name}: {ran.said}"
        assert sentence in " ".join(ran.said.split()), name
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("place", ["org/name", "org/name@main", "gs://bucket/model", "https://host/model", BASE])
def test_what_is_elsewhere_is_left_to_the_command(place):
    refuse_missing_checkpoint("--checkpoint", place)


def test_a_directory_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--teacher .* holds no config\.json"):
        refuse_missing_checkpoint("--teacher", str(tmp_path))


def test_sources_that_are_no_files_here_are_left_to_what_opens_them(tmp_path):
    (tmp_path / "data").mkdir()
    elsewhere = ("org/questions", "org/questions@main:train", "hf://datasets/a/b", "s3://bucket/a.jsonl", "mine:rows")
    for source in (*elsewhere, "rows.py:rows", str(tmp_path / "*.jsonl"), f"{tmp_path / 'data'}:test"):
        refuse_missing(source)
    for source in ("gone.jsonl", "./org/questions", str(tmp_path / "gone"), "~nobody-of-this-name/x", "org/gone.jsonl"):
        with pytest.raises(UserError, match="there is no"):
            refuse_missing(source)


@pytest.mark.parametrize("words", [["synth", "--out", ""], ["synth", "--out="], ["report", ""]])
def test_a_path_of_an_unset_variable_is_not_the_present_directory(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "a path is empty. Is a variable of the shell not set?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_text_that_is_no_path_is_taken(tmp_path, capsys):
    assert main(["eval", BASE, "--judge.url", "", "--out", str(tmp_path), "--dry-run"]) == 0
