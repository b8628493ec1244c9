"""Each script of benchmarks/ runs from end to end in its smallest form, and prints the JSON that it promises."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASSETS = Path(str(resources.files("hypereyes_jax.assets")))
MODULES = {"hf_conversations.py"}  # no script of its own: rollout.py runs it


@dataclass(frozen=True)
class Smallest:
    """A script's smallest form: its arguments, the packages that it needs beside ours, whether it tells its machine."""

    arguments: str = ""
    needs: tuple[str, ...] = ()
    machine: bool = True  # all that take times do


SCRIPTS = {
    "attention.py": Smallest("--device cpu --lengths 256", machine=False),
    "backbone.py": Smallest("--size tiny --repeats 1 --no-compile", ("torch",)),
    "budget.py": Smallest(
        f"--checkpoint {ASSETS / 'teacher'} --out runs --seeds 0 --steps 1 --prompts 1 --seen 1 --questions 1",
        machine=False,
    ),
    "card.py": Smallest("--size tiny --slots 2 --context 64 --row-length 256 --rows 2 --calls 1 --out card.json"),
    "data.py": Smallest(
        "--folder files --rows 8 --gigabytes 0.001 --questions 100 --width 64 --batches 2 --batch 2 --processes 1 "
        "--workers 1"
    ),
    "decode.py": Smallest("--rows 1 --calls 1"),
    "drafts.py": Smallest(f"--checkpoint {ASSETS / 'teacher'} --rows 1 --questions 1 --calls 1"),
    "learner.py": Smallest("--steps 1", ("torch",)),
    "logprobs.py": Smallest("--batch 1 --length 64 --width 16 --vocab 512 --repeats 1"),
    "machine_speed.py": Smallest(machine=False),  # it prints nothing else
    "packing.py": Smallest("--means 6000 --steps 1", machine=False),
    "replica_group.py": Smallest("--workers 1 --calls 3"),
    "rollout.py": Smallest("--quick", ("torch",)),
    "row_attention.py": Smallest("--repeats 1"),
    "sampler_precision.py": Smallest(f"--checkpoint {ASSETS / 'teacher'} --questions 2 --slots 2", machine=False),
    "search.py": Smallest("--quick"),
    "serving.py": Smallest("--requests 4 --slots 2 --runs 1"),
    "training_pass.py": Smallest("--turns 1 --questions 6"),
    "wikidata.py": Smallest("--entities 2000 --filler 10 --suffix json --questions 2"),
}


def numbers(value):
    """All numbers in a JSON value; a bool is none."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def run(script, arguments, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_script_is_listed():
    assert {path.name for path in (ROOT / "benchmarks").glob("*.py")} == {*SCRIPTS, *MODULES}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_its_smallest_form_ends_in_finite_figures(tmp_path, script):
    smallest = SCRIPTS[script]
    for package in smallest.needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{script} needs {package}, which is not installed")
    printed = run(script, smallest.arguments.split(), tmp_path)
    found = json.loads(printed.splitlines()[-1])
    assert ("machine" in found) == smallest.machine
    figures = [*numbers({name: value for name, value in found.items() if name != "machine"})]
    assert figures, found
    assert all(math.isfinite(figure) for figure in figures), found
    if script == "card.py":
        assert json.loads((tmp_path / "card.json").read_text()) == found
        rows = run(script, ["--table", "card.json"], tmp_path).splitlines()
        assert len(rows) == 2 + len(found["decode"]) + len(found["transformers"]) + 1
