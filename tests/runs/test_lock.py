"""The lock of a run's directory, between real processes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.lock import LOCK, DirectoryLock

HOLD = "import sys, time; from pathlib import Path; from hypereyes_jax.runs.lock import DirectoryLock\n"
HOLD += "lock = DirectoryLock.acquire(Path(sys.argv[1]), 'rl'); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_told_who_holds_the_directory(tmp_path, holder):
    with pytest.raises(UserError, match=rf"in use by process {holder.pid} on .*`hypereyes rl`, since 20"):
        DirectoryLock.acquire(tmp_path, "rl")


def test_a_kill_frees_the_directory(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    DirectoryLock.acquire(tmp_path, "rl").release()


def test_one_process_may_open_its_directory_twice(tmp_path):
    with DirectoryLock.acquire(tmp_path, "rl"):
        DirectoryLock.acquire(tmp_path, "rl").release()


def test_a_child_does_not_hold_the_directory_on(tmp_path):
    lock = DirectoryLock.acquire(tmp_path, "rl")
    with subprocess.Popen(["sleep", "600"], close_fds=False) as child:
        lock.release()
        taken = subprocess.run(
            [sys.executable, "-c", HOLD.replace("time.sleep(600)", "0"), str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        child.kill()
    assert taken.stdout == "held\n", taken.stderr


def test_a_damaged_note_still_says_that_it_is_in_use(tmp_path, holder):
    (tmp_path / LOCK).write_bytes(b"\xff[" * 1000)
    with pytest.raises(UserError, match="in use by another process"):
        DirectoryLock.acquire(tmp_path, "rl")


def test_a_link_in_the_place_of_the_lock_is_refused_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "letter")
    with pytest.raises(UserError, match=r"\.lock is a link, where a run keeps its lock\. Remove the link"):
        DirectoryLock.acquire(tmp_path / "run", "rl")
    assert (tmp_path / "letter").read_text() == "dear"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_the_place_of_the_lock_is_named(tmp_path, make):
    make(tmp_path / LOCK)
    with pytest.raises(UserError, match=r"\.lock"):
        DirectoryLock.acquire(tmp_path, "rl")


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", none)
    DirectoryLock.acquire(tmp_path, "rl").release()
    assert "has no locks" in capsys.readouterr().err
