"""`hypereyes launch restart`: real processes, started again or not."""

import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from hypereyes_jax.launch import restart as restarting
from hypereyes_jax.launch.restart import restart

RESTART = "import sys; from hypereyes_jax.launch.restart import restart; "
RESTART += "sys.exit(restart(sys.argv[2:], int(sys.argv[1]), 60))"


def ending_with(folder, codes):
    """A command that ends with one code after another, and counts."""
    count = folder / "count"
    script = (
        f"n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) > {count}; "
        f"set -- {' '.join(map(str, codes))}; shift $n; [ $1 != kill ] || kill -9 $$; exit $1"
    )
    return ["sh", "-c", script], count


@pytest.mark.parametrize(
    ("codes", "last", "starts"),
    [
        ([0], 0, 1),
        ([2, 0], 2, 1),  # the user's to put right
        ([1, "kill", 0], 0, 3),
        ([1, 1, 1, 0], 1, 3),  # two restarts are allowed
        (["kill", "kill", "kill"], 137, 3),
        ([75, 75, 75, 75, 0], 0, 5),  # saved and stopped, however often
    ],
)
def test_a_command_is_started_again_until_it_is_done(tmp_path, codes, last, starts):
    command, count = ending_with(tmp_path, codes)
    assert restart(command, 2, pause=0.0) == last
    assert int(count.read_text()) == starts


def test_a_command_that_ends_again_and_again_within_minutes_is_given_longer_pauses(monkeypatch, capfd):
    now = [0.0]
    lives = iter([1, 1, 1, 400, 1, 1])  # seconds

    class Ended:
        def __init__(self, *_, **__):
            now[0] += next(lives, 1)
            self.code = 0 if next(left, None) is None else 75

        def wait(self):
            return self.code

        def poll(self):
            return self.code

    left = iter(range(6))
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + 30))
    monkeypatch.setattr(restarting, "time", clock)
    monkeypatch.setattr(restarting.subprocess, "Popen", Ended)
    assert restart(["true"], 0, pause=200.0) == 0
    pauses = re.findall(r"again in (\d+) s", capfd.readouterr().err)
    assert pauses == ["200", "400", "600", "200", "200", "400"]


def test_a_signal_is_passed_on_and_ends_it(tmp_path):
    inner = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); "
        "print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", RESTART, "5", sys.executable, "-c", inner], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75


def test_a_signal_that_comes_while_the_command_is_being_started_is_passed_on(monkeypatch):
    inner = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); "
        "print('ready', flush=True); time.sleep(5); sys.exit(3)"
    )
    start = subprocess.Popen

    def started_and_signalled(command, **options):
        process = start(command, stdout=subprocess.PIPE, **options)
        assert process.stdout.readline() == b"ready\n"
        os.kill(os.getpid(), signal.SIGTERM)  # before the caller knows the process
        return process

    monkeypatch.setattr(subprocess, "Popen", started_and_signalled)
    assert restart([sys.executable, "-c", inner], 5) == 75


def test_a_signal_in_the_pause_ends_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", RESTART, "5", "false"], stderr=subprocess.PIPE, text=True) as process:
        assert "starting it again" in process.stderr.readline()
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 1
        assert time.monotonic() - began < 30
