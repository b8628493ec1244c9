"""Which questions can be asked: those whose pictures can be opened. Looked at before anything is paid for."""

from __future__ import annotations

from collections.abc import Sequence

from hypereyes_jax.data.sources.types import BadRows, RowError, SourceReport
from hypereyes_jax.env.types import Question


def openable(questions: Sequence[Question], report: SourceReport, bad_rows: BadRows) -> list[int]:
    """Numbers of the questions of a source or benchmark whose pictures can be opened; others are counted in `report`.

    Raises RowError for the first that can't be opened, if such rows are refused.
    """
    numbers = []
    for number in range(len(questions)):
        try:
            questions[number]
        except RowError as error:
            if bad_rows == "refuse":
                raise
            report.add_bad(error)
            continue
        numbers.append(number)
    return numbers
