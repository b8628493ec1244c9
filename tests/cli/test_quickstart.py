"""The main job end to end, and what ships with it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

from hypereyes_jax import miniature
from hypereyes_jax.cli import main as cli
from hypereyes_jax.cli import make_teacher, pretrain_world
from hypereyes_jax.cli import quickstart as quickstart_command
from hypereyes_jax.cli.pretrain_world import PretrainConfig
from hypereyes_jax.cli.quickstart import ASSETS, QuickstartConfig
from hypereyes_jax.data.base_corpus import BaseCorpusConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.run_directory import RunDirectory, to_jsonable
from hypereyes_jax.train.pretraining import corpus_hashes

TINY = "--smoke --search.transport in-process --search.latency 0".split()
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())",
    "quickstart",
]


def quickstart(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "--out", str(out), *arguments], capture_output=True, text=True, timeout=900)


@pytest.mark.slow  # .ci/run does the same from the wheel
def test_the_smoke_run_goes_through_every_stage_and_writes_its_results(tmp_path):
    done = quickstart(tmp_path / "run", *TINY)
    assert done.returncode == 0, done.stderr
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert {stage: list(splits) for stage, splits in stages.items()} == {
        "base": ["heldout"],
        "sft": ["heldout"],
        "rl": ["heldout", "seen", "heldout_serial"],
    }
    for stage, splits in stages.items():
        for split, row in splits.items():
            for name in (
                "accuracy",
                "accuracy_low",
                "accuracy_high",
                "rounds",
                "invocations",
                "kilo_tokens",
                "cas",
                "n",
            ):
                assert row[name] == row[name], (stage, split, name)  # not NaN
            assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
            assert row["masked_infrastructure"] == 0
    assert stages["rl"]["heldout_serial"]["n"] == stages["rl"]["heldout"]["n"]
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in steps} == {"sft", "rl"}
    assert "http" not in (tmp_path / "run" / "report.html").read_text().split("<script")[0].replace("http-equiv", "")

    again = quickstart(tmp_path / "run", *TINY)  # all is there: only the report is made anew
    assert again.returncode == 0, again.stderr
    assert "RL" not in again.stderr
    other = quickstart(tmp_path / "run", *TINY, "--seed", "1")
    assert other.returncode == 2
    assert "seed was 0, is 1" in other.stderr


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_result(tmp_path):
    whole = quickstart(tmp_path / "whole", *TINY)
    assert whole.returncode == 0, whole.stderr
    moments = random.Random(0)
    for _ in range(6):
        with subprocess.Popen([*COMMAND, "--out", str(tmp_path / "killed"), *TINY], stderr=subprocess.DEVNULL) as run:
            time.sleep(moments.uniform(5, 45))
            os.kill(run.pid, signal.SIGKILL)
    killed = quickstart(tmp_path / "killed", *TINY)
    assert killed.returncode == 0, killed.stderr

    def outcome(name: str):
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())["stages"]
        return {
            (stage, split, key): metrics[stage][split][key]
            for stage in metrics
            for split in metrics[stage]
            for key in ("accuracy", "rounds", "invocations", "kilo_tokens")
        }

    assert outcome("killed") == outcome("whole")


def test_the_shipped_base_model_was_made_by_this_code():
    record = json.loads((resources.files(ASSETS) / "base" / pretrain_world.RECORD).read_text())
    assert record["command"] == "hypereyes pretrain-world"
    default = to_jsonable(PretrainConfig())
    assert record["settings"] == {k: v for k, v in default.items() if k not in pretrain_world.NO_SETTINGS}
    corpus = BaseCorpusConfig(episode=miniature.EPISODE)
    assert record["corpus"] == to_jsonable(corpus)
    assert record["corpus_sha256"] == corpus_hashes(corpus)


def test_the_shipped_teacher_was_made_by_this_code_from_the_shipped_base():
    record = json.loads((resources.files(ASSETS) / "teacher" / pretrain_world.RECORD).read_text())
    default = make_teacher.MakeTeacherConfig()
    assert record["command"] == f"hypereyes make-teacher --seed {default.seed}"
    settings = {k: v for k, v in to_jsonable(default).items() if k not in pretrain_world.NO_SETTINGS}
    assert record["settings"] == settings
    hashes = make_teacher.made_from(make_teacher.data_config(default), Path(str(resources.files(ASSETS) / "base")))
    assert hashes.items() <= record.items()


def test_the_teachers_minutes_are_those_of_all_calls(tmp_path, monkeypatch):
    clock = iter([0.0, 120.0, 500.0, 560.0])  # two minutes, an interruption, one minute
    monkeypatch.setattr(make_teacher.time, "perf_counter", lambda: next(clock))
    directory = RunDirectory.open(tmp_path, "make-teacher", make_teacher.MakeTeacherConfig())
    with pytest.raises(KeyboardInterrupt), make_teacher._timing(directory):
        raise KeyboardInterrupt
    with make_teacher._timing(directory):
        pass
    assert json.loads((tmp_path / "minutes.json").read_text()) == {"minutes": 3.0}


def test_smoke_keeps_the_settings_that_were_given(monkeypatch, tmp_path):
    used = []
    monkeypatch.setattr(quickstart_command, "_run_stages", lambda directory, config, stages: used.append(config))
    monkeypatch.setattr(quickstart_command, "_cost", lambda directory, seconds: (_ for _ in ()).throw(UserError("end")))
    words = "--rl.steps 5 --search.latency 0 --sft.batch 8 --eval-questions 20 --seed 3".split()
    assert cli.main(["quickstart", "--smoke", "--out", str(tmp_path), *words]) == 2
    (config,) = used
    assert (config.rl.steps, config.search.latency, config.sft.batch, config.eval_questions, config.seed) == (
        5,
        0,
        8,
        20,
        3,
    )
    assert (config.rl.prompts, config.rl.group, config.sft.epochs, config.sft_questions) == (2, 4, 1, 48)
    assert config.rl.learning_rate == QuickstartConfig().rl.learning_rate


@pytest.mark.parametrize("name", ["base", "teacher"])
def test_shipped_models_are_small_and_in_hf_layout(name):
    folder = Path(str(resources.files(ASSETS) / name))
    assert {"config.json", "model.safetensors", "tokenizer.json", pretrain_world.RECORD} <= set(os.listdir(folder))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 6_000_000
