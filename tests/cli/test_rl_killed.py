"""`hypereyes rl` itself, killed with -9 again and again: it ends with the weights of a run that was left alone."""

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
from hypereyes_jax.eval.split import world_questions
from tests.cli.logged import logged_rows, logged_steps

ROOT = Path(__file__).parents[2]
BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
KILLS, STEPS = 20, 48
# --exact gives every rollout a slot of its own and calls of one shape, so that weights can be compared to the bit.
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())",
    *f"rl --exact --checkpoint {BASE} --settings.steps {STEPS} --settings.prompts 2 --settings.group 2".split(),
    *"--settings.checkpoint-every 1 --search.transport in-process --search.latency 0".split(),
    *"--sizes.slots 4 --sizes.context 512".split(),
]


def rl(out: Path, questions: Path) -> subprocess.Popen[bytes]:
    command = [*COMMAND, "--questions", str(questions), "--out", str(out)]
    # to a file: a pipe that nobody reads would fill and stop the run
    with open(out.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def finished(out: Path, questions: Path) -> None:
    with rl(out, questions) as run:
        assert run.wait(timeout=1800) == 0, out.with_suffix(".log").read_text()[-3000:]


@pytest.mark.slow
def test_killed_twenty_times_it_ends_with_the_same_weights_to_the_bit(tmp_path):
    questions, whole, killed = tmp_path / "questions.jsonl", tmp_path / "whole", tmp_path / "killed"
    write_questions(questions, world_questions(World.load(), "seen", 16, 5))
    began = time.time()
    finished(whole, questions)
    times = [row["time"] for row in logged_rows(whole, "rl")]
    start_up, step = times[0] - began, (times[-1] - times[0]) / (STEPS - 1)

    moments = random.Random(0)
    for kill in range(KILLS):
        with rl(killed, questions) as run:
            # As it starts (imports, selection, restoring, compiling) by the clock, or as it goes, after a step that no
            # run before had made; never far behind that, however fast the machine has become meanwhile.
            most = max(logged_steps(killed, "rl"), default=-1)
            starting, began = kill % 2 == 1, time.time()
            wait = moments.uniform(0, start_up) if starting else 1800
            while (
                run.poll() is None
                and max(logged_steps(killed, "rl"), default=-1) <= most
                and time.time() - began < wait
            ):
                time.sleep(0.02)
            if not starting:
                time.sleep(min(moments.uniform(0, 1.5 * step), 1.0))
            run.send_signal(signal.SIGKILL)
        assert run.returncode == -signal.SIGKILL, f"kill {kill} came after its end"
    finished(killed, questions)

    assert logged_steps(killed, "rl") == logged_steps(whole, "rl") == list(range(STEPS))
    assert (killed / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    # nothing that is half written lies beside what a run leaves
    assert sorted(os.listdir(killed)) == sorted(os.listdir(whole))
    assert sorted(os.listdir(killed / "rl-checkpoints")) == sorted(os.listdir(whole / "rl-checkpoints"))
    assert sorted(os.listdir(killed / "model")) == sorted(os.listdir(whole / "model"))
