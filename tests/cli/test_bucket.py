import sys

import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.files import read_json
from hypereyes_jax.runs import mirror

SYNTH = "synth --sft-questions 6 --rl-candidates 4 --eval-questions 4 --out gs://bucket/data".split()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that stands for `gs://bucket`, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened = mirror.RunMirror

    def local(url, folder, *place):
        assert url.startswith("gs://")
        return opened(url.replace("gs://", f"file://{tmp_path}/"), folder, *place)

    monkeypatch.setattr(mirror, "RunMirror", local)
    return tmp_path / "bucket"


def test_a_command_writes_its_directory_into_a_bucket(bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(SYNTH) == 0
    assert "the run is in" in capsys.readouterr().err
    demonstrations = (bucket / "data/demonstrations.jsonl").read_bytes()
    assert demonstrations
    assert read_json(bucket / "data/config.json")["command"] == "synth"
    assert not (tmp_path / "gs:").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another-machine"))
    assert cli.main(SYNTH) == 0
    assert "continuing from" in capsys.readouterr().err
    assert (bucket / "data/demonstrations.jsonl").read_bytes() == demonstrations
    assert cli.main([*SYNTH, "--seed", "5"]) == 2  # other settings, as in a local directory
    assert "other settings" in " ".join(capsys.readouterr().err.split())


def test_what_several_processes_can_not_write_together_and_files_need_a_path(bucket, capsys, monkeypatch):
    words = "sft --checkpoint c --demonstrations d --out {}://bucket/run --distributed.join"
    assert cli.main(words.format("s3").split()) == 2
    assert "since other buckets can't make one whole at once" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert cli.main(words.format("gs").split()) == 2
    assert "pip install 'hypereyes-jax[remote]'" in " ".join(capsys.readouterr().err.split())
    assert cli.main("ask flag.png who --out gs://bucket/answer.jsonl".split()) == 2
    assert "gs://bucket/answer.jsonl is a URL, where a path is needed" in capsys.readouterr().err
    assert not bucket.exists()
