"""Where a command may find itself: streams that are closed or cut, LANG=C, no HOME, few descriptors, full disks."""

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

from hypereyes_jax.cli.main import main
from hypereyes_jax.runs.run_directory import RunDirectory
from tests.eval.sample_run import write_run

MAIN = f"{sys.executable} -c 'import sys; from hypereyes_jax.cli.main import main; sys.exit(main())'"


def slow(*values):
    """A case that is tried with the slow tests, since one like it is tried at every run."""
    return pytest.param(*values, marks=pytest.mark.slow)


def shell(command, **environment):
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        timeout=300,
        check=False,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("flags-旗"), questions=2, steps=3)


@pytest.mark.parametrize(
    ("around", "environment"),
    [
        ("{} >&-", {}),
        ("{} >&- 2>&- <&-", {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("(ulimit -n 64; env -u HOME {}) | true", {}),
        # one by one what is together above
        slow("{} >&- 2>&-", {}),
        slow("{} < /dev/null >&- 2>&- <&-", {}),
        slow("{} | true", {}),
        slow("{}", {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        slow("env -u HOME {}", {}),
        slow("(ulimit -n 64; {})", {}),
    ],
)
def test_a_report_is_written_whatever_the_surroundings(run, tmp_path, around, environment):
    out = tmp_path / "seite-é.html"
    done = shell(around.format(f"{MAIN} report {run} --out {out}"), **environment)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert out.read_text().startswith("<!doctype html>")  # and nothing else that was printed


@pytest.mark.parametrize("command", ["--help", "rl --help", "launch --help", slow("help sft")])
def test_help_may_be_cut_off(command):
    done = shell(f"{MAIN} {command} | head -n 1")
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "--version",
        "rl --help",
        "launch slurm --dry-run -- rl --out x",
        *map(slow, ("--help", "completion bash", "report --help")),
    ],
)
def test_printing_to_a_full_disk_is_one_sentence(command):
    done = shell(f"{MAIN} {command} > /dev/full")
    assert done.returncode == 2
    assert done.stderr == (
        b"hypereyes: what was printed is not complete: the disk is full. Free some space, or choose a directory on "
        b"another disk\n"
    )


def test_a_report_is_made_although_its_log_is_on_a_full_disk(run, tmp_path):
    done = shell(f"{MAIN} report {run} --out {tmp_path}/report.html > /dev/full")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_a_name_of_no_encoding_is_one_sentence(tmp_path):
    done = shell(f"{MAIN} report $'{tmp_path}/\\xff\\xfe'")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_device_is_never_replaced_by_a_file(run, tmp_path):
    device = tmp_path / "device"
    os.mkfifo(device)
    done = shell(f"{MAIN} report {run} --out {device}")
    assert done.returncode == 2, done.stderr
    assert b"not a regular file" in done.stderr
    assert not device.is_file()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(run, tmp_path):
    out = tmp_path / "report.html"
    # a limit on the size of a file, whose errno is another; the reader of errors is the same
    done = shell(f"trap '' XFSZ; ulimit -f 4; {MAIN} report {run} --out {out}")
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_asking_never_writes_over_its_picture_and_says_so_before_it_asks(tmp_path, capsys):
    picture = tmp_path / "flags.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    before = picture.read_bytes()
    words = ["ask", str(picture), "Which?", "--model-url", "http://127.0.0.1:9/v1", "--model", "m"]
    assert main([*words, "--out", str(tmp_path / "flags.jsonl")]) == 2
    assert "would replace the input" in capsys.readouterr().err
    assert main([*words, "--out", str(picture)]) == 2
    assert picture.read_bytes() == before


def test_a_model_is_never_exported_over_itself(tmp_path, capsys):
    base = Path(str(resources.files("hypereyes_jax.assets") / "base"))
    assert main(["export", "--checkpoint", str(base), "--out", str(base)]) == 2
    assert "would replace the input" in capsys.readouterr().err


def test_a_second_command_in_a_directory_is_told_who_is_there(tmp_path):
    hold = "import sys, time; from pathlib import Path; from hypereyes_jax.runs.lock import DirectoryLock; "
    hold += "lock = DirectoryLock.acquire(Path(sys.argv[1]), 'synth'); print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        done = shell(f"{MAIN} synth --out {tmp_path}")
        holder.kill()
    assert done.returncode == 2
    assert f"in use by process {holder.pid}".encode() in done.stderr


def test_escape_sequences_of_files_stay_out_of_the_terminal(tmp_path, capsys):
    RunDirectory.open(tmp_path, "rl", {"a": 1})
    (tmp_path / "metrics.json").write_text(json.dumps({"stages": {"\x1b[31mrl": {"heldout": {}}}}))
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\\x1b[31mrl" in said
