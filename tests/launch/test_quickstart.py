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

from hypereyes_jax.data.base_corpus import BaseCorpusConfig
from hypereyes_jax.launch import miniature, pretrain_world
from hypereyes_jax.launch.pretrain_world import PretrainConfig, corpus_hash
from hypereyes_jax.launch.quickstart import ASSETS
from hypereyes_jax.launch.run_dir import to_jsonable

TINY = "--smoke --rl.search in-process --rl.latency 0".split()
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from hypereyes_jax.launch.cli import main; sys.exit(main())",
    "quickstart",
]


def quickstart(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "--out", str(out), *arguments], capture_output=True, text=True, timeout=900)


def test_the_smoke_run_goes_through_every_stage_and_writes_its_results(tmp_path):
    done = quickstart(tmp_path / "run", *TINY)
    assert done.returncode == 0, done.stderr
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    for stage in ("base", "sft", "rl"):
        for split in ("heldout", "seen"):
            row = stages[stage][split]
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
    assert record["corpus_sha256"] == corpus_hash(corpus)


@pytest.mark.parametrize("name", ["base", "teacher"])
def test_shipped_models_are_small_and_in_hf_layout(name):
    folder = Path(str(resources.files(ASSETS) / name))
    assert {"config.json", "model.safetensors", "tokenizer.json", pretrain_world.RECORD} <= set(os.listdir(folder))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 6_000_000
