"""`hypereyes rl` into an outage of its search service: it ends with counts by reason, and goes on right after."""

import os
import subprocess
import sys
import time
from importlib import resources

import pytest

from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.files import write_json
from tests.cli.logged import logged_steps
from tests.search_server import search_server

BASE = resources.files("hypereyes_jax.assets") / "base"
MAIN = [sys.executable, "-c", "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())"]


@pytest.fixture
def service():
    with search_server() as service:
        yield service


@pytest.mark.slow
def test_an_outage_in_mid_run_ends_it_with_its_reason_and_the_same_command_goes_on(tmp_path, service):
    out, log = tmp_path / "run", tmp_path / "run.log"
    questions = world_questions(World.load(), "seen", 4, 5)
    write_questions(tmp_path / "questions.jsonl", questions)
    write_json(tmp_path / "references.json", {question.id: [2, 4] for question in questions})
    words = [
        *f"rl --exact --checkpoint {BASE} --settings.steps 4 --settings.prompts 1 --settings.group 2".split(),
        *"--sizes.slots 2 --sizes.context 512 --settings.checkpoint-every 1000".split(),
        *f"--questions {tmp_path / 'questions.jsonl'} --references {tmp_path / 'references.json'}".split(),
        *f"--search.service serve-world --search.url {service.url}".split(),
        *"--search.policy.attempts 1 --search.policy.breaker-failures 1000 --settings.outages.share 0.9".split(),
        *f"--out {out}".split(),
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with open(log, "w") as said, subprocess.Popen([*MAIN, *words], stdout=said, stderr=said, env=environment) as run:
        until = time.monotonic() + 600
        while not logged_steps(out):
            assert run.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until
            time.sleep(0.05)
        service.down = True
        code = run.wait(timeout=300)
    told = " ".join(log.read_text().split())
    assert code == 2, told[-3000:]
    assert "Traceback" not in told
    assert "2 of a step's 2 rollouts failed, for no fault of the policy: 2 x" in told
    assert "HTTP 5" in told
    assert "run the same command again" in told
    done = logged_steps(out)
    assert done
    saved = max(int(name) for name in os.listdir(out / "rl-checkpoints") if name.isdigit())
    assert saved == len(done)  # what was trained before is kept
    service.down = False
    finished = subprocess.run(
        [*MAIN, *words], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert logged_steps(out) == list(range(4))
    assert (out / "model" / "model.safetensors").exists()
