"""Doing the steps of a study that are not done yet, each in a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from hypereyes_jax.errors import UserError
from hypereyes_jax.study.types import StudyStep

_COMMAND_LINE = "$ hypereyes "  # before a command in its log
_IN_USE = "is in use by "  # how a command says that another one has its directory
_PATIENCE, _PAUSE = 1800.0, 5.0  # seconds that such a one is waited for in all, and before it is looked for again
Call = Callable[[Sequence[str], Path, frozenset[int]], int]
_COMMAND = """
import os, signal, sys, threading
def end_with_caller():
    os.read(0, 1)  # of a pipe that nobody writes to: it ends when the process that called is gone
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end_with_caller, daemon=True).start()
cores = [int(core) for core in sys.argv.pop(1).split(",") if core]
if cores:
    os.sched_setaffinity(0, cores)
from hypereyes_jax.cli.main import main
sys.exit(main())
"""


def call_command(words: Sequence[str], log: Path, cores: frozenset[int] = frozenset()) -> int:
    """Runs a `hypereyes` command in a process of its own, whose memory and locks end with it; returns its exit code.

    It is asked to stop when this process is gone, however that ended: the next sitting finds its directory free.

    Args:
      log: gets what the command prints.
      cores: that it may use; none = all.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        file.write(f"{_COMMAND_LINE}{shell_line(words).removeprefix('hypereyes ')}\n".encode())
        file.flush()
        numbers = ",".join(str(core) for core in sorted(cores))
        command = [sys.executable, "-c", _COMMAND, numbers, *words]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file) as process:
            return process.wait()


def shell_line(words: Sequence[str]) -> str:
    """A command as it is typed."""
    return f"hypereyes {shlex.join(words)}"


def execute(
    steps: Sequence[StudyStep],
    logs: Path,
    tell: Callable[[str], None],
    minutes: float | None = None,
    call: Call = call_command,
    jobs: int = 1,
) -> bool:
    """Does what is open, in order as far as a step's inputs are there. Returns whether all is done.

    Args:
      logs: folder for what the commands print, a file a step.
      tell: is told of each step as it begins and ends.
      minutes: after so many no further step is begun (None = all are); the same call continues.
      jobs: steps at once, each on its share of the cores.

    Raises:
      UserError: a command failed; names it, its log and its last line. Those beside it come to their end before.
    """
    began = time.monotonic()
    waiting = {n: step for n, step in enumerate(steps, start=1) if not step.done.exists()}
    free = shares(jobs)
    tasks: dict[Future[None], tuple[int, frozenset[int]]] = {}
    unfinished = dict(waiting)
    with ThreadPoolExecutor(len(free)) as pool:
        while waiting or tasks:
            in_time = minutes is None or time.monotonic() - began < 60 * minutes
            for number, step in list(waiting.items()):
                if not free or not in_time:
                    break
                if not any(before < number and step.reads(other) for before, other in unfinished.items()):
                    cores = free.pop()
                    del waiting[number]
                    place = f"{number}/{len(steps)} {step.name}"
                    tasks[pool.submit(_do, step, place, logs, tell, call, cores)] = number, cores
            if not tasks:
                return False
            for future in wait(tasks, return_when=FIRST_COMPLETED).done:
                number, cores = tasks.pop(future)
                future.result()
                del unfinished[number]
                free.append(cores)
    return True


def shares(jobs: int) -> list[frozenset[int]]:
    """The cores of each of so many jobs; of a single one none, which means all.

    Raises UserError if there are fewer cores than jobs, or none can be chosen here.
    """
    if jobs < 1:
        raise UserError("--jobs must be at least 1")
    if jobs == 1:
        return [frozenset()]
    if not hasattr(os, "sched_getaffinity"):
        raise UserError("--jobs shares out the cores of a machine with Linux. Leave it out here.")
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise UserError(f"--jobs {jobs} needs as many cores; this process may use {len(cores)}.")
    return [frozenset(cores[n::jobs]) for n in range(jobs)]


def _do(
    step: StudyStep, place: str, logs: Path, tell: Callable[[str], None], call: Call, cores: frozenset[int]
) -> None:
    tell(place)
    start = time.monotonic()
    if step.make is not None:
        step.make()
    else:
        _called(step, place, logs, tell, call, cores)
    if not step.done.exists():
        raise UserError(f"{step.name} ended without {step.done}. Its command: {shell_line(step.words)}")
    tell(f"{place}: {(time.monotonic() - start) / 60:.1f} min")


def _called(
    step: StudyStep, place: str, logs: Path, tell: Callable[[str], None], call: Call, cores: frozenset[int]
) -> None:
    """Runs a step's command. Raises UserError if it fails.

    A sitting that was ended may have left one that still saves what it did: it is waited for, so that the same command
    goes on at any moment.
    """
    log = logs / f"{step.name.replace(' ', '-').replace('/', '-')}.log"
    began, is_told = time.monotonic(), False
    while (code := call(step.words, log, cores)) != 0:
        last = _last_words(log)
        if _IN_USE not in last or time.monotonic() - began > _PATIENCE:
            raise UserError(
                f"{step.name} failed with exit code {code} ({last}). All that was done is kept; see {log}, then run "
                f"the same command again. The step: {shell_line(step.words)}"
            )
        if not is_told:
            tell(f"{place}: {last.removeprefix('hypereyes: ')} It is waited for.")
            is_told = True
        time.sleep(_PAUSE)


def _last_words(log: Path) -> str:
    """What the last command said of its failure, behind which one that goes on may have written more."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = text.rpartition(_COMMAND_LINE)[2].strip().splitlines()[1 if _COMMAND_LINE in text else 0 :]
    return next(
        (line for line in reversed(lines) if line.startswith("hypereyes: ")), (lines or ["it printed nothing"])[-1]
    )
