"""`hypereyes sft`, killed with -9: the same command again ends with the weights of a run that was left alone."""

import os
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

from hypereyes_jax.cli.synth import DEMONSTRATIONS, SynthConfig, make_data
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())",
    *f"sft --checkpoint {resources.files('hypereyes_jax.assets') / 'base'}".split(),
    *"--settings.batch 1 --settings.epochs 1 --settings.checkpoint-every 3 --sizes.shard-rows 1".split(),
]


def sft(out: Path, demonstrations: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "--demonstrations", str(demonstrations), "--out", str(out)], stdout=subprocess.DEVNULL
    )


def has_checkpoint(out: Path) -> bool:
    folder = out / "sft-checkpoints"
    return folder.exists() and any(name.isdigit() for name in os.listdir(folder))  # while written it has another name


@pytest.mark.slow
def test_killed_after_a_checkpoint_it_ends_with_the_same_adapters_to_the_bit(tmp_path):
    data, whole, killed = (tmp_path / name for name in ("data", "whole", "killed"))
    config = SynthConfig(data, sft_questions=16, rl_candidates=2, eval_questions=2)
    make_data(RunDirectory.open(data, "synth", config), config, Stages())
    demonstrations = data / DEMONSTRATIONS

    with sft(whole, demonstrations) as undisturbed, sft(killed, demonstrations) as victim:
        while not has_checkpoint(killed):
            assert victim.poll() is None, "it ended before its first checkpoint"
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
    assert (undisturbed.returncode, victim.returncode) == (0, -signal.SIGKILL)
    assert not (killed / "adapter").exists()

    with sft(killed, demonstrations) as again:
        pass
    assert again.returncode == 0
    for file in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes()
