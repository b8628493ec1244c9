import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.study import execution
from hypereyes_jax.study.execution import call_command, execute, shares, shell_line
from hypereyes_jax.study.types import StudyStep


def step(folder, name, make=True):
    return (
        StudyStep(name, folder / name, ("do", name))
        if make
        else StudyStep(name, folder / name, make=(folder / name).touch)
    )


def doing(folder, called):
    def call(words, log, cores):
        called.append(words[1])
        (folder / words[1]).touch()
        return 0

    return call


def test_what_is_done_is_not_done_again_and_the_order_is_kept(tmp_path):
    called = []
    steps = [step(tmp_path, "a"), step(tmp_path, "b", make=False), step(tmp_path, "c")]
    (tmp_path / "a").touch()
    assert execute(steps, tmp_path, lambda _: None, call=doing(tmp_path, called))
    assert called == ["c"]
    assert (tmp_path / "b").exists()
    assert execute(steps, tmp_path, lambda _: None, call=doing(tmp_path, called))
    assert called == ["c"]


def test_a_sitting_that_is_over_begins_nothing_more(tmp_path):
    called = []
    assert not execute([step(tmp_path, "a")], tmp_path, lambda _: None, minutes=0, call=doing(tmp_path, called))
    assert called == []


def test_a_command_that_fails_is_named_with_its_log(tmp_path):
    log = tmp_path / "logs"
    with pytest.raises(UserError, match=r"train it failed with exit code 2.*there is no command"):
        execute([StudyStep("train it", tmp_path / "x", ("no-such-command",))], log, lambda _: None, call=call_command)
    assert "$ hypereyes no-such-command" in (log / "train-it.log").read_text()


def test_a_command_that_a_sitting_that_was_ended_left_is_waited_for(tmp_path, monkeypatch):
    """As `sft` that still saves its checkpoint when the same study is given again."""
    monkeypatch.setattr(execution, "_PAUSE", 0.0)
    called, told = [], []

    def call(words, log, cores):
        called.append(words)
        if len(called) < 3:
            said = "hypereyes: runs/x is in use by process 7 on vm (`hypereyes sft`). Wait for its end.\n"
            log.write_text(f"$ hypereyes sft\n{said}saved, says process 7\n")
            return 2
        (tmp_path / "a").touch()
        return 0

    assert execute([step(tmp_path, "a")], tmp_path, told.append, call=call)
    assert len(called) == 3
    assert [text for text in told if "It is waited for" in text] == [
        "1/1 a: runs/x is in use by process 7 on vm (`hypereyes sft`). Wait for its end. It is waited for."
    ]
    monkeypatch.setattr(execution, "_PATIENCE", -1.0)
    (tmp_path / "a").unlink()
    called.clear()
    with pytest.raises(UserError, match="is in use by process 7"):
        execute([step(tmp_path, "a")], tmp_path, told.append, call=call)


def test_a_step_that_makes_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="ended without"):
        execute([StudyStep("s", tmp_path / "x", ("w",))], tmp_path, lambda _: None, call=lambda words, log, cores: 0)


def test_steps_run_at_once_on_shares_of_the_cores_and_each_after_what_it_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6, 7}, raising=False)
    both = threading.Barrier(2, timeout=20)  # only steps that run at once pass it
    ended, shares = [], {}

    def call(words, log, cores):
        shares[words[1]] = cores
        if words[1] in ("a", "b"):
            both.wait()
        assert words[1] != "c" or {"a", "b"} <= set(ended)
        ended.append(words[1])
        (tmp_path / words[1]).mkdir()
        (tmp_path / words[1] / "done").touch()
        return 0

    def made(name, *needs):
        return StudyStep(
            name, tmp_path / name / "done", ("do", name, *(str(tmp_path / need / "model") for need in needs))
        )

    last = StudyStep("table", tmp_path / "table", make=lambda: (tmp_path / "table").write_text(" ".join(sorted(ended))))
    steps = [made("a"), made("b"), made("c", "a", "b"), made("d", "a"), last]
    assert execute(steps, tmp_path, lambda _: None, call=call, jobs=2)
    assert (tmp_path / "table").read_text() == "a b c d"
    assert {shares["a"], shares["b"]} == {frozenset({4, 6}), frozenset({5, 7})}


def test_a_failure_beside_others_lets_them_end_and_begins_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    failed, called = threading.Event(), []

    def call(words, log, cores):
        called.append(words[1])
        if words[1] == "a":
            failed.set()
            return 1
        assert failed.wait(20)
        time.sleep(0.2)
        (tmp_path / words[1]).touch()
        return 0

    steps = [step(tmp_path, "a"), step(tmp_path, "b"), step(tmp_path, "c")]
    with pytest.raises(UserError, match="a failed with exit code 1"):
        execute(steps, tmp_path / "logs", lambda _: None, call=call, jobs=2)
    assert called == ["a", "b"]
    assert (tmp_path / "b").exists()


@pytest.mark.parametrize(("jobs", "why"), [(0, "at least 1"), (3, "this process may use 2")])
def test_jobs_that_there_are_no_cores_for_are_refused(jobs, why, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    with pytest.raises(UserError, match=why):
        shares(jobs)


def test_a_command_runs_on_its_cores(tmp_path):
    core = min(os.sched_getaffinity(0))
    assert call_command(("--version",), tmp_path / "log", frozenset({core})) == 0
    assert call_command(("--version",), tmp_path / "log", frozenset({100_000})) == 1  # it is set, not ignored


def test_a_line_can_be_pasted():
    assert shell_line(["ask", "x.png", "What is this?"]) == "hypereyes ask x.png 'What is this?'"


def test_a_step_is_a_command_or_a_function():
    with pytest.raises(ValueError, match="either"):
        StudyStep("s", Path("x"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_a_command_stops_when_the_study_that_called_it_is_killed(tmp_path):
    """Else its lock would refuse the next sitting."""
    words = ("serve-world", "--port", "0")
    call = f"call_command({words}, Path({str(tmp_path / 'log')!r}))"
    imports = "from pathlib import Path; from hypereyes_jax.study.execution import call_command; "
    study = subprocess.Popen([sys.executable, "-c", imports + call])
    children = Path(f"/proc/{study.pid}/task/{study.pid}/children")
    deadline = time.monotonic() + 120
    while not (tmp_path / "log").exists() or "http://" not in (tmp_path / "log").read_text():
        assert study.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (child,) = map(int, children.read_text().split())
    study.send_signal(signal.SIGKILL)
    study.wait()
    while Path(f"/proc/{child}").exists() and "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.1)
