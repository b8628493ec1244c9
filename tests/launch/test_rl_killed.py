"""`hypereyes rl` itself, killed with -9 again and again: it ends with the weights of a run that was left alone."""

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

from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env.world import World
from hypereyes_jax.launch.eval import world_questions

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
KILLS, STEPS = 20, 24
# --exact gives every rollout a slot of its own and calls of one shape, so that weights can be compared to the bit.
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from hypereyes_jax.launch.cli import main; sys.exit(main())",
    *f"rl --exact --checkpoint {BASE} --settings.steps {STEPS} --settings.prompts 2 --settings.group 2".split(),
    *"--settings.checkpoint-every 1 --settings.search in-process --settings.latency 0".split(),
    *"--scale.slots 4 --scale.row-tokens 512".split(),
]


def rl(out: Path, questions: Path) -> subprocess.Popen[str]:
    command = [*COMMAND, "--questions", str(questions), "--out", str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def finished(out: Path, questions: Path) -> None:
    with rl(out, questions) as run:
        _, errors = run.communicate(timeout=900)
    assert run.returncode == 0, errors


def steps_logged(out: Path) -> list[int]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["phase"] == "rl"]


@pytest.mark.slow
def test_killed_twenty_times_it_ends_with_the_same_weights_to_the_bit(tmp_path):
    questions, whole, killed = tmp_path / "questions.jsonl", tmp_path / "whole", tmp_path / "killed"
    write_questions(questions, world_questions(World.load(), "seen", 16, 5))
    finished(whole, questions)

    moments = random.Random(0)
    midway = 0  # kills that hit a run on its way: not one that had ended
    for _ in range(KILLS):
        with rl(killed, questions) as run:
            time.sleep(moments.uniform(1, 25))
            run.send_signal(signal.SIGKILL)
        midway += run.returncode == -signal.SIGKILL
    finished(killed, questions)

    assert midway >= KILLS // 2
    assert (killed / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    assert steps_logged(killed) == steps_logged(whole) == list(range(STEPS))
    assert not [name for name in os.listdir(killed) if "tmp" in name]
