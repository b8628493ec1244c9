"""`hypereyes sft` and `rl`, asked to stop: they save, exit with 75, and the same command continues to the same end."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

from hypereyes_jax.cli.synth import DEMONSTRATIONS, SynthConfig, make_data
from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.rollout_files import read_rollouts
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.files import write_json
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from tests.cli.logged import logged_steps

BASE = resources.files("hypereyes_jax.assets") / "base"
MAIN = [sys.executable, "-c", "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())"]
SFT = f"sft --checkpoint {BASE} --settings.batch 1 --settings.epochs 1 --sizes.shard-rows 1".split()
RL = [
    *f"rl --exact --checkpoint {BASE} --settings.steps 5 --settings.prompts 1 --settings.group 2".split(),
    *"--search.transport in-process --search.latency 0 --sizes.slots 2 --sizes.context 512".split(),
]


def start(out: Path, words: list[str]) -> subprocess.Popen[str]:
    with open(out.with_suffix(".log"), "a") as log:
        return subprocess.Popen([*MAIN, *words, "--out", str(out)], stdout=log, stderr=log, text=True)


def saved(out: Path, phase: str) -> int:
    """Steps of the newest checkpoint."""
    return max((int(name) for name in os.listdir(out / f"{phase}-checkpoints") if name.isdigit()), default=0)


def stop_after(out: Path, words: list[str], after: int, number: int, wait: float = 0.0) -> int:
    with start(out, words) as run:
        while max(logged_steps(out), default=-1) < after:
            assert run.poll() is None, out.with_suffix(".log").read_text()[-3000:]
            time.sleep(0.01)
        time.sleep(wait)
        run.send_signal(number)
        return run.wait(timeout=300)


def finish(out: Path, words: list[str]) -> None:
    with start(out, words) as run:
        assert run.wait(timeout=600) == 0, out.with_suffix(".log").read_text()[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sft_ends_its_step_saves_and_goes_on(tmp_path, number):
    data, whole, stopped = (tmp_path / name for name in ("data", "whole", "stopped"))
    config = SynthConfig(data, sft_questions=12, rl_candidates=2, eval_questions=2)
    make_data(RunDirectory.open(data, "synth", config), config, Stages())
    words = [*SFT, "--settings.checkpoint-every", "1000", "--demonstrations", str(data / DEMONSTRATIONS)]
    assert stop_after(stopped, words, 1, number) == 75
    assert saved(stopped, "sft") >= max(logged_steps(stopped)) + 1  # no step is lost
    assert f"({number.name}); it is saved" in stopped.with_suffix(".log").read_text()
    finish(stopped, words)
    finish(whole, words)
    assert logged_steps(stopped) == logged_steps(whole)
    file = "adapter/adapter_model.safetensors"
    assert (stopped / file).read_bytes() == (whole / file).read_bytes()


@pytest.fixture
def rl_words(tmp_path):
    questions = world_questions(World.load(), "seen", 4, 5)
    write_questions(tmp_path / "questions.jsonl", questions)
    write_json(tmp_path / "references.json", {question.id: [2, 4] for question in questions})
    return [*RL, "--questions", str(tmp_path / "questions.jsonl"), "--references", str(tmp_path / "references.json")]


@pytest.mark.slow
def test_rl_drops_the_step_under_way_saves_and_goes_on(tmp_path, rl_words):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = [*rl_words, "--settings.checkpoint-every", "1000"]
    for after, wait in ((0, 0.0), (1, 0.3), (2, 0.6)):
        assert stop_after(stopped, words, after, signal.SIGTERM, wait) == 75
        assert saved(stopped, "rl") >= max(logged_steps(stopped)) + 1
    finish(stopped, words)
    finish(whole, words)
    assert logged_steps(stopped) == logged_steps(whole) == list(range(5))
    file = "model/model.safetensors"
    assert (stopped / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.slow
def test_rl_ends_at_a_notice_and_keeps_rollouts(tmp_path, rl_words):
    out, notice = tmp_path / "run", tmp_path / "stop"
    words = [*rl_words, "--settings.checkpoint-every", "1000", "--stop.notice-file", str(notice)]
    with start(out, [*words, "--settings.steps", "100000"]) as run:
        while not logged_steps(out):
            assert run.poll() is None, out.with_suffix(".log").read_text()[-3000:]
            time.sleep(0.05)
        notice.touch()
        assert run.wait(timeout=400) == 75, out.with_suffix(".log").read_text()[-3000:]
    assert f"(there is a file {notice}); it is saved" in " ".join(out.with_suffix(".log").read_text().split())
    assert saved(out, "rl") == len(logged_steps(out))
    assert {path.name for path in (out / "rollouts").iterdir()} >= {"step-000000.jsonl.gz"}
    records = list(read_rollouts(out / "rollouts" / "step-000000.jsonl.gz"))
    assert len(records) == 2
    assert all({"reward", "advantage"} <= set(record.extra) for record in records)


@pytest.mark.slow
def test_the_quickstart_ends_its_step_and_goes_on(tmp_path):
    out = tmp_path / "run"
    words = ["quickstart", "--smoke", "--search.transport", "in-process", "--search.latency", "0"]
    words += ["--sft.checkpoint-every", "1000", "--sft-questions", "24"]
    assert stop_after(out, words, 0, signal.SIGTERM) == 75
    assert saved(out, "sft") == max(logged_steps(out)) + 1 >= 1
    assert json.loads((out / "cost.json").read_text())["seconds"] > 0
    finish(out, words)
    assert (out / "report.html").exists()
