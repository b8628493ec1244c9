"""Doing the steps of a study that are not done yet, each in a process of its own."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hypereyes_jax.errors import UserError
from hypereyes_jax.study.types import Step

Call = Callable[[Sequence[str], Path], int]
_COMMAND = "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())"


def call_command(words: Sequence[str], log: Path) -> int:
    """Runs a `hypereyes` command in a process of its own, whose memory and locks end with it; returns its exit code.

    What it prints goes to `log`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        file.write(f"$ {shell_line(words)}\n".encode())
        file.flush()
        return subprocess.run([sys.executable, "-c", _COMMAND, *words], stdout=file, stderr=file).returncode


def shell_line(words: Sequence[str]) -> str:
    """A command as it is typed."""
    return f"hypereyes {shlex.join(words)}"


def execute(
    steps: Sequence[Step],
    logs: Path,
    tell: Callable[[str], None],
    minutes: float = float("inf"),
    call: Call = call_command,
) -> bool:
    """Does what is open, in order. Returns whether all is done.

    Args:
      logs: folder for what the commands print, a file a step.
      tell: is told of each step as it begins and ends.
      minutes: after so many no further step is begun; the same call goes on.

    Raises:
      UserError: a command failed; names it, its log and its last line.
    """
    began = time.monotonic()
    for number, step in enumerate(steps, start=1):
        if step.done.exists():
            continue
        if time.monotonic() - began >= 60 * minutes:
            return False
        tell(f"{number}/{len(steps)} {step.name}")
        started = time.monotonic()
        if step.make is not None:
            step.make()
        else:
            _called(step, logs, call)
        if not step.done.exists():
            raise UserError(f"{step.name} ended without {step.done}. Its command: {shell_line(step.words)}")
        tell(f"{number}/{len(steps)} {step.name}: {(time.monotonic() - started) / 60:.1f} min")
    return True


def _called(step: Step, logs: Path, call: Call) -> None:
    log = logs / f"{step.name.replace(' ', '-').replace('/', '-')}.log"
    code = call(step.words, log)
    if code == 0:
        return
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    raise UserError(
        f"{step.name} failed with exit code {code} ({lines[-1] if lines else 'it printed nothing'}). All that was done "
        f"is kept; see {log}, then run the same command again. The step: {shell_line(step.words)}"
    )
