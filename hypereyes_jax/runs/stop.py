"""Ending a run in good order before it is ended: signals, a time limit, a notice of the machine's end.

A scheduler says beforehand that a machine will go: SIGTERM (Slurm, Kubernetes, a shutdown), SIGHUP (a terminal that
closes), a file or an address that announces a preemption. The run then drops or ends its step, saves, says so, and
exits with `STOPPED`, on which the pod scripts queue it again without counting it as a crash.

jax has a preemption service for several processes. It is not used (`launch.initialize`): it knows SIGTERM alone,
takes the signal's handler away from Python, and agrees on a step only if every process asks for it each step. The
processes of a run talk to each other at each step in any case, and agree there.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.terminal import visible

STOPPED = 75  # exit code; EX_TEMPFAIL of sysexits.h: try again
_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_SECONDS_BETWEEN_LOOKS = 5.0
_MOST_BYTES = 4096  # of a notice
# A file of notices that is older than the process by more was meant for an earlier one. Clocks of hosts differ by less.
_STALE_SECONDS = 60.0
# What Google's metadata server answers while nothing is planned.
_NOTHING_PLANNED = ("", "NONE", "FALSE")


@dataclass(frozen=True)
class StopConfig:
    """When a training ends before its last step: it saves, exits with code 75, and the same command continues."""

    minutes: float = 0.0
    """Number of minutes after the start of this process at which the run ends; 0 sets no limit."""
    notice_file: Path | None = None
    """File whose appearance ends the run; you or a hook of the scheduler may create it. It is left where it is, and
    ends no run that began after it, until it is written again."""
    notice_url: str = ""
    """Address that announces the end when it answers with anything but NONE or FALSE. On Google Cloud:
    http://metadata.google.internal/computeMetadata/v1/instance/preempted, or .../instance/maintenance-event."""

    def __post_init__(self) -> None:
        if not self.minutes >= 0:
            raise UserError("--stop.minutes must be at least 0")
        if self.notice_url and not self.notice_url.startswith(("http://", "https://")):
            raise UserError(f"--stop.notice-url must be an http or https address, not {self.notice_url!r}")


class RunStopped(Exception):
    """The run ended in good order before its last step, and everything done is saved."""


class StopRequest:
    """Whether this process was asked to stop, and why. A `with` statement puts the signals' handlers in place.

    A second signal of the kind ends the process at once, as without us.
    """

    def __init__(self, config: StopConfig = StopConfig(), started: float | None = None):
        """`started`: `time.monotonic()` of the process's start; None = now."""
        self._config = config
        self._started = time.monotonic() if started is None else started
        self._reason = ""
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._before: dict[signal.Signals, object] = {}
        self._watch: threading.Thread | None = None

    @property
    def reason(self) -> str:
        """Why to stop, in words; empty while there is no reason."""
        return self._reason

    def request(self, reason: str) -> None:
        """Ask for a stop; the first reason stays. Callbacks are called once, on the caller's thread."""
        with self._lock:
            if self._reason:
                return
            self._reason = reason
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    @contextlib.contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call `callback` as soon as a stop is asked for, within the block; at once if it has been.

        It may be called on any thread, and in a signal's handler: `loop.call_soon_threadsafe` is what it may do.
        """
        with self._lock:
            late = bool(self._reason)
            if not late:
                self._callbacks.append(callback)
        if late:
            callback()
        try:
            yield
        finally:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in _SIGNALS:
                # One that is ignored stays so: `nohup` asks for it.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
        config = self._config
        if config.minutes or config.notice_file is not None or config.notice_url:
            self._watch = threading.Thread(target=self._look, name="stop notices", daemon=True)
            self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        kind = signal.Signals(number)
        signal.signal(kind, signal.SIG_DFL)  # a second one is not to be waited for
        # On a thread of its own: a lock that the interrupted code holds can't be waited for in its own thread.
        threading.Thread(target=self.request, args=(_SIGNALS[kind],), daemon=True).start()

    def _look(self) -> None:
        config = self._config
        silent: set[str] = set()  # notices that could not be looked for, each told once until it can be again
        began = time.time() - (time.monotonic() - self._started)
        while not self._ended.is_set():
            seconds = config.minutes * 60 - (time.monotonic() - self._started)
            if config.minutes and seconds <= 0:
                self.request(f"the {config.minutes:g} minutes of --stop.minutes are over")
                return
            looks = (
                ("notice-file", lambda: _file_notice(config.notice_file, began)),
                ("notice-url", lambda: _url_notice(config.notice_url)),
            )
            for option, look in looks:
                try:
                    reason = look()
                    silent.discard(option)
                except OSError as error:
                    if option not in silent:
                        warning = f"warning: --stop.{option} tells nothing now ({error})"
                        print(visible(warning), file=sys.stderr)
                    silent.add(option)
                    continue
                if reason:
                    self.request(reason)
                    return
            wait = _SECONDS_BETWEEN_LOOKS if not config.minutes else min(_SECONDS_BETWEEN_LOOKS, seconds)
            self._ended.wait(max(wait, 0.01))


def _file_notice(file: Path | None, began: float) -> str:
    """Why a file says to stop a process that began at a time; "" if it does not. Raises OSError if that can't be told.

    One that was left from before is no notice: the run would stop at once whenever it is started, and never get on.
    """
    if file is None or not file.exists():
        return ""
    age = began - file.stat().st_mtime
    if age > _STALE_SECONDS:
        raise OSError(f"{file} is {age / 60:.0f} minutes older than this process, so it announces nothing to it")
    return f"there is a file {file}"


def _url_notice(url: str) -> str:
    """Why an address says to stop; "" if it does not. Raises OSError if it can't be used."""
    if not url:
        return ""
    try:
        notice = _notice(url)
    except (http.client.HTTPException, ValueError) as error:  # a reply that is no HTTP, an address that is none
        raise OSError(f"{type(error).__name__}: {error}") from None
    if notice.startswith("<"):  # a login or a page of errors that something on the way put there
        raise OSError(f"it answers with a page: {notice[:60]!r}")
    return "" if notice.upper() in _NOTHING_PLANNED else f"{url} says {notice!r}"


def _notice(url: str) -> str:
    """What an address says. Raises what urllib does, if it can't be used."""
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    # The metadata server is this machine's own: no proxy stands before it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_SECONDS_BETWEEN_LOOKS) as reply:
            return str(reply.read(_MOST_BYTES).decode("utf-8", "replace")).strip()
    except urllib.error.HTTPError as error:
        raise OSError(f"status {error.code}") from None
