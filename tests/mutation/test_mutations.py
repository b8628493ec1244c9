"""One-line changes that the tests must notice: each makes the test that it names fail (`pytest -m mutation`).

`mutations.json` lists them by the text that is changed, so they survive what moves lines. A text that is gone or stands
twice is found by the quick test below, at every run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTATIONS = json.loads(Path(__file__).with_name("mutations.json").read_text())
SECONDS = 600  # a change that makes a test hang is noticed, too, but not quickly
COPIED = ("hypereyes_jax", "tests", "benchmarks", "pyproject.toml")  # tests use a benchmark's functions


def name_of(mutation):
    return f"{mutation['file']}: {mutation['change'][:60]}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=name_of)
def test_a_mutations_text_stands_once_and_its_test_exists(mutation):
    source = (ROOT / "hypereyes_jax" / mutation["file"]).read_text()
    assert source.count(mutation["text"]) == 1
    assert mutation["change"] != mutation["text"]
    file, _, test = mutation["test"].partition("::")
    assert re.search(rf"^(async )?def {test.partition('[')[0]}\(", (ROOT / file).read_text(), re.M)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and its tests, where they may be changed."""
    root = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture(scope="module")
def run_test(copy):
    """Runs a test on the copy as it is then: (exit status, end of its output)."""
    command = [sys.executable, "-m", "tests.mutation.warm_pytest", str(SECONDS)]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=copy, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:

        def run(test):
            process.stdin.write(f"{test}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.mark.mutation
@pytest.mark.parametrize("test", sorted({mutation["test"] for mutation in MUTATIONS}))
def test_a_named_test_passes_unchanged(run_test, test):
    status, output = run_test(test)
    assert status == 0, output


@pytest.mark.mutation
@pytest.mark.parametrize("mutation", MUTATIONS, ids=name_of)
def test_a_mutation_is_noticed(copy, run_test, mutation):
    file = copy / "hypereyes_jax" / mutation["file"]
    source = file.read_text()
    file.write_text(source.replace(mutation["text"], mutation["change"]))
    try:
        status, output = run_test(mutation["test"])
    finally:
        file.write_text(source)
    assert status == pytest.ExitCode.TESTS_FAILED, f"the mutation survives, or breaks more than it changes\n{output}"
