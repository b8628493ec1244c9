"""`hypereyes synth`, given again over what it left."""

import shutil

import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.files import read_json, write_json

WORDS = "--sft-questions 2 --rl-candidates 1 --eval-questions 1".split()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth")
    assert cli.main(["synth", "--out", str(out), *WORDS]) == 0
    return out


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json*") if path.name not in ("starts.jsonl",)}


@pytest.mark.parametrize("name", ["heldout.jsonl", "synth.json"])
def test_a_file_that_is_missing_is_made_again(made, out, name):
    (out / name).unlink()
    assert cli.main(["synth", "--out", str(out), *WORDS]) == 0
    assert contents(out) == contents(made)


@pytest.mark.parametrize("text", ["", "{}\n", None])
def test_a_file_of_other_content_is_named_and_left(out, text, capsys):
    changed = out / "seen.jsonl"
    changed.write_text((out / "heldout.jsonl").read_text() if text is None else text)
    before = contents(out)
    assert cli.main(["synth", "--out", str(out), *WORDS]) == 2
    assert f"{changed} is not what {out / 'synth.json'} says was written. Remove both" in capsys.readouterr().err
    assert contents(out) == before


@pytest.mark.parametrize("text", ["{}", '{"files": []}', '{"files": {"../x": "0"}}', "[]"])
def test_a_damaged_summary_is_named(out, text, capsys):
    (out / "synth.json").write_text(text)
    assert cli.main(["synth", "--out", str(out), *WORDS]) == 2
    assert f"{out / 'synth.json'} is damaged" in capsys.readouterr().err


def test_data_of_a_version_without_digests_are_taken_as_they_are(out):
    summary = read_json(out / "synth.json")
    del summary["files"]
    write_json(out / "synth.json", summary)
    before = contents(out)
    assert cli.main(["synth", "--out", str(out), *WORDS]) == 0
    assert contents(out) == before


def test_the_summary_says_what_was_written(made):
    files = read_json(made / "synth.json")["files"]
    assert set(files) == {"demonstrations.jsonl", "rl_candidates.jsonl", "heldout.jsonl", "seen.jsonl"}
