"""`hypereyes rl` keeps the model that its periodic evaluation finds best, also when it is killed on the way."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from hypereyes_jax.data.files import write_questions
from hypereyes_jax.data.sources.question_rows import REFERENCE
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.split import world_questions
from tests.cli.logged import logged_steps

ROOT = Path(__file__).parents[2]
BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
STEPS, BEST = 3, 2
# The evaluation after step 2 finds what was answered right, all others wrong: metrics.jsonl has a line for each step
# before the one that is evaluated.
JUDGE = """
import json
from pathlib import Path

import numpy as np

METRICS, VALIDATION = Path({metrics!r}), set({ids!r})


def scripted(question, answer):
    if question.id not in VALIDATION:
        return answer in question.answers
    rows = METRICS.read_text().splitlines() if METRICS.exists() else []
    return sum(json.loads(row)["phase"] == "rl" for row in rows) == {best} - 1


def ordered(group):  # so that each step changes the weights, whatever was answered
    return np.arange(len(group.results), dtype=float), {{}}
"""


def rl(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())",
        *f"rl --checkpoint {BASE} --settings.steps {STEPS} --settings.prompts 1 --settings.group 2".split(),
        *f"--questions {folder / 'questions.jsonl'} --eval-questions {folder / 'validation.jsonl'}".split(),
        *f"--eval-every 1 --settings.save-every 1 --settings.checkpoint-every 1 --out {out}".split(),
        *f"--judge.object {folder / 'judge.py'}:scripted --search.transport in-process --search.latency 0".split(),
        *f"--reward.functions {folder / 'judge.py'}:ordered".split(),
        *"--settings.opd-coef 0 --sizes.slots 4 --sizes.context 512".split(),
    ]
    with open(folder / "log", "ab") as log:  # to a file: a pipe that nobody reads would fill and stop the run
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def killed_when(folder: Path, out: Path, is_time) -> None:
    with rl(folder, out) as run:
        while run.poll() is None and not is_time():
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL, (folder / "log").read_text()[-3000:]


def weights(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_best_model_of_the_evaluation_is_on_the_disk_after_a_kill(tmp_path):
    out = tmp_path / "run"
    asked = world_questions(World.load(), "seen", 16, 5)
    asked = [replace(question, meta={**question.meta, REFERENCE: [2, 3]}) for question in asked]  # need no tries
    write_questions(tmp_path / "questions.jsonl", asked)
    validation = world_questions(World.load(), "heldout", 4, 9)
    write_questions(tmp_path / "validation.jsonl", validation)
    ids = [question.id for question in validation]
    (tmp_path / "judge.py").write_text(JUDGE.format(metrics=str(out / "metrics.jsonl"), ids=ids, best=BEST))

    def record():
        path = out / "best-model.json"
        return json.loads(path.read_text()) if path.exists() else {}

    # As the checkpoint of the best step is written, or just before or after: the best is there in the end all the same.
    killed_when(tmp_path, out, lambda: len(logged_steps(out, "rl")) >= BEST)
    kept = record()
    assert kept["step"] == BEST
    with rl(tmp_path, out) as run:
        assert run.wait(timeout=1800) == 0, (tmp_path / "log").read_text()[-3000:]

    assert logged_steps(out, "rl") == list(range(STEPS))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    accuracies = [row["rl/eval_accuracy"] for row in rows if row["phase"] == "rl"]
    assert accuracies[BEST - 1] > 0
    assert accuracies[: BEST - 1] + accuracies[BEST:] == [0.0] * (STEPS - 1)
    assert record() == kept == {"step": BEST, "eval_accuracy": accuracies[BEST - 1]}
    assert weights(out / "best-model") == weights(out / "models" / f"step-{BEST}")
    assert weights(out / "best-model") != weights(out / "model")
    assert sorted(path.name for path in (out / "models").iterdir()) == [f"step-{n}" for n in range(1, STEPS + 1)]
