"""Tries of questions, each stored as it is made, by the content of the question and of the policy.

A line a try: {"question": SHA, "policy": SHA, "attempt": 0, "rounds": 2, "invocations": 5, "correct": true, "id": ...}.
Only tries that say something about the policy are stored: an outage does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypereyes_jax.data.selection import Try, is_informative
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import mend_last_line, read_json_lines, writing
from hypereyes_jax.runs.typed_json import from_json


@dataclass(frozen=True)
class _Line:
    question: str
    policy: str
    attempt: int
    rounds: int
    invocations: int
    correct: bool
    id: str


class TryLog:
    """The tries of one policy. Each process adds to a file of its own, and knows what all have stored before it began.

    Use it in a `with` statement.
    """

    def __init__(self, policy: str, own: Path, stored: Iterable[Path]):
        """
        Args:
          policy: what decides how it plays and how it is judged, as a digest.
          own: file to add to.
          stored: files of all processes, this one's among them if it is there.

        Raises:
          UserError: a file is damaged or can't be written.
        """
        self._policy = policy
        self._own = own
        self._tries: dict[tuple[str, int], Try] = {}
        mend_last_line(own)
        for path in stored:
            self._read(path)

    def get(self, question: str, attempt: int) -> Try | None:
        """The try of a question's key, if it was made and told something."""
        return self._tries.get((question, attempt))

    def add(self, question: str, attempt: int, result: Try, name: str) -> None:
        """Store a try at once, if it tells something. Raises UserError if it can't be written."""
        if not is_informative(result):
            return
        self._tries[question, attempt] = result
        line = {"question": question, "policy": self._policy, "attempt": attempt, **result._asdict(), "id": name}
        with writing(self._own), open(self._own, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _read(self, path: Path) -> None:
        for number, row in read_json_lines(path):
            try:
                key, attempt_result = _from_row(row)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number} is not a try of a question ({error}). Remove that line and run the command "
                    "again."
                ) from None
            if row["policy"] == self._policy:
                self._tries[key] = attempt_result


def _from_row(row: Any) -> tuple[tuple[str, int], Try]:
    line = from_json(_Line, row)
    if min(line.attempt, line.rounds, line.invocations) < 0:
        raise ValueError("numbers must not be negative")
    return (line.question, line.attempt), Try(line.rounds, line.invocations, line.correct)
