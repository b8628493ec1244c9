"""Write report.html from a run's directory, or from a trajectory file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hypereyes_jax.runs.outputs import refuse_missing_run


@dataclass(frozen=True)
class ReportConfig:
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run's directory, or one trajectories-*.jsonl file."""
    out: Path | None = None
    """The page to write. By default report.html in the directory, or beside the file under its name."""
    questions: int = 40
    """Largest number of questions in the trajectory viewer."""


def run(config: ReportConfig) -> None:
    refuse_missing_run(config.source)

    from hypereyes_jax.eval.report import write_report

    print(write_report(config.source, config.out, questions=config.questions))
