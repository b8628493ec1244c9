"""Running a command of this program on a host without a scheduler, and starting it again when it ends early."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from hypereyes_jax.runs.stop import STOPPED

_USERS_MISTAKE = 2  # exit code of what only the user can put right
_PAUSE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 600.0
_SHORT_SECONDS = 300.0  # a command that ended sooner has hardly begun


def restart(command: Sequence[str], restarts: int, pause: float = _PAUSE_SECONDS) -> int:
    """Run `command` until it is done, and return its last exit code.

    A crash starts it again, at most `restarts` times; an end in good order (code 75: a time limit, a notice) does, too,
    however often. Between ends that follow each other within minutes the pauses become longer, up to ten minutes: a
    notice that stands for hours would have a model loaded again and again. What the user must put right (code 2) is
    not tried again. SIGTERM, SIGINT and SIGHUP are passed on, and the command's end is then the end.
    """
    asked_to_end = False
    process: subprocess.Popen[bytes] | None = None
    to_pass_on: list[int] = []  # signals that the command has not been sent

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        to_pass_on.append(number)
        pass_on()

    def pass_on() -> None:
        while process is not None and to_pass_on:
            number = to_pass_on.pop(0)
            if process.poll() is None:
                process.send_signal(number)

    before = {each: signal.signal(each, note) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        crashes, short = 0, 0
        while True:
            # In a process group of its own: a terminal's Ctrl-C would reach it twice.
            process = None
            began = time.monotonic()
            process = subprocess.Popen(command, process_group=0)
            pass_on()  # what came while it was being started
            code = process.wait()
            code = 128 - code if code < 0 else code  # as a shell says it
            crashes += code not in (0, STOPPED, _USERS_MISTAKE)
            if asked_to_end or code in (0, _USERS_MISTAKE) or crashes > restarts:
                return code
            why = "it saved and stopped" if code == STOPPED else f"crash {crashes} of {restarts} that are allowed"
            short = short + 1 if time.monotonic() - began < _SHORT_SECONDS else 0
            wait = min(pause * 2 ** max(0, short - 1), max(pause, _LONGEST_PAUSE_SECONDS))
            print(f"hypereyes: code {code} ({why}); starting it again in {wait:g} s", file=sys.stderr, flush=True)
            deadline = time.monotonic() + wait
            while not asked_to_end and time.monotonic() < deadline:
                time.sleep(0.1)  # a signal must not wait for the end of the pause
            if asked_to_end:
                return code
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
