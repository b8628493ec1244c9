"""The cluster scripts: what they would run, from `--dry-run`; and that they are well-formed."""

import shlex
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = {
    "slurm.sh": ["--nodes", "8"],
    "cloud_tpu.sh": ["--name", "pod", "--zone", "z"],
    "gke.sh": ["--cluster", "c", "--type", "v5p-128", "--image", "i"],
    "sky.sh": ["--bucket", "s3://b", "--nodes", "2"],
}
COMMAND = ["rl", "--out", "/shared/a run", "--seed", "3"]


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_shows_the_command_passed_through_whole(script):
    done = run(LAUNCH / script, "--dry-run", *SCRIPTS[script], "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    inner = next(word for word in words if "hypereyes rl" in word)
    start = inner.index("hypereyes rl")
    assert shlex.split(inner[start:])[: 1 + len(COMMAND)] == ["hypereyes", *COMMAND]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_well_formed_and_refuses_what_it_does_not_know(script):
    assert run("bash", "-n", LAUNCH / script).returncode == 0
    for wrong in (["--unheard"], [*SCRIPTS[script], "--"]):
        done = run(LAUNCH / script, *wrong)
        assert done.returncode == 2
        assert script in done.stderr


def test_every_script_is_tested_and_described():
    scripts = {path.name for path in LAUNCH.glob("*.sh")}
    assert scripts == set(SCRIPTS)
    assert all(f"`{name}`" in (LAUNCH / "README.md").read_text() for name in scripts)
