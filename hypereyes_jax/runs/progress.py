"""Progress of a run's stages, with the time left of each: bars on a terminal, occasional plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from hypereyes_jax.runs.memory import give_back
from hypereyes_jax.runs.terminal import Terminal

_SECONDS_BETWEEN_LINES = 10.0


class Stage:
    """One stage under way. `advance` it; the figures last given stand beside the bar."""

    def __init__(self, name: str, total: int, console: Terminal, bars: Progress | None):
        self.name = name
        self.total = total
        self.done = 0
        self._resumed_at = 0
        self._console = console
        self._bars = bars
        self._task: TaskID | None = bars.add_task(name, total=total, figures="") if bars else None
        self._start = self._last_line = time.monotonic()

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        """Count `steps` as done; `figures` (`loss=0.31`) are shown beside the bar."""
        self.done += steps
        text = "  ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in figures.items())
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self.done, figures=text)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(f"{self.name} {self.done}/{self.total}, {self._time_left()} left  {text}".rstrip())

    def skip_to(self, done: int) -> None:
        """Continue from a checkpoint: these steps took no time now, so they don't count in the time left."""
        self.done = done
        if self._bars is not None and self._task is not None:
            self._bars.reset(self._task, total=self.total, completed=done)
        self._start, self._resumed_at = time.monotonic(), done

    def _time_left(self) -> str:
        units = self.done - self._resumed_at
        if units <= 0:
            return "unknown time"
        return duration((time.monotonic() - self._start) / units * (self.total - self.done))

    def close(self) -> None:
        seconds = time.monotonic() - self._start
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
        summary = f" {self.name}: {self.done} in {duration(seconds)}"
        self._console.print(Text.assemble(("✓", "green"), summary), highlight=False)


class Stages:
    """All stages of one command: `with Stages() as stages: with stages.stage("SFT", 200) as sft: sft.advance()`."""

    def __init__(self, console: Terminal | None = None):
        self.console = console or Terminal(stderr=True)
        self._bars: Progress | None = None
        if self.console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[figures]}"),
                console=self.console,
                # What is printed to a file must not go through the bars' terminal, with its styles.
                redirect_stdout=sys.stdout.isatty(),
            )

    def __enter__(self) -> Stages:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """A stage of `total` steps. On leaving without an error its duration is printed."""
        stage = Stage(name, total, self.console, self._bars)
        yield stage
        stage.close()
        give_back()  # here, because every stage needs other arrays than the one before


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
