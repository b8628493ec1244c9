"""The package as an import: quick, lazy, typed, with every room reachable as an attribute."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hypereyes_jax
from tests.forked import run_forked

ROOT = Path(hypereyes_jax.__file__).parent
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("assets", "cli"))
HEAVY = "import aiohttp, flax, jax, optax, transformers"  # of the rooms' imports, those that take longest
IMPORT_SECONDS = 0.1  # what is promised, in CPU time


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_quick_and_imports_none_of_its_rooms():
    code = (
        "import sys, time, json; before = set(sys.modules); start = time.process_time(); import hypereyes_jax;"
        "print(json.dumps([time.process_time() - start, sorted(set(sys.modules) - before)]))"
    )
    seconds, modules = json.loads(run_python(code))
    assert seconds < IMPORT_SECONDS
    assert [name for name in modules if name.startswith("hypereyes_jax")] == ["hypereyes_jax"]


def test_a_room_is_an_attribute_whichever_is_imported_first():
    code = "import sys, hypereyes_jax; assert hypereyes_jax.{0} is sys.modules['hypereyes_jax.{0}']"
    for room, ran in zip(ROOMS, run_forked(HEAVY, [code.format(room) for room in ROOMS]), strict=True):
        assert ran.code == 0, f"{room}: {ran.said}"


def test_dir_and_the_stub_name_each_room():
    assert set(ROOMS) <= set(dir(hypereyes_jax))
    stub = (ROOT / "__init__.pyi").read_text()
    assert sorted(re.findall(r"^from hypereyes_jax import (\w+) as \1$", stub, re.M)) == ROOMS


def test_reports_and_trajectories_are_read_without_jax():
    run_python("import sys, hypereyes_jax.eval.report; assert 'jax' not in sys.modules")


def test_the_stub_of_rollouts_names_what_they_offer():
    stub = (ROOT / "rollout" / "__init__.pyi").read_text()
    names = re.findall(r"^from hypereyes_jax\.([\w.]+) import (\w+) as \2$", stub, re.M)
    assert sorted(name for _, name in names) == sorted(hypereyes_jax.rollout.__all__)
    for module, name in names:
        assert getattr(hypereyes_jax.rollout, name).__module__ == f"hypereyes_jax.{module}"


def test_an_attribute_that_is_none_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'rooms'"):
        _ = hypereyes_jax.rooms


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "py.typed").exists()
