"""The attempts of a collection on disk: each is written as it is made, so that a run that was killed goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from hypereyes_jax.data.collection.types import Attempt, CollectionStage
from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.files import example_json, json_line
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import mend_last_line, read_json_lines

ATTEMPTS, CONVERSATIONS = "attempts.jsonl", "conversations.jsonl"


class AttemptLog:
    """Attempts so far, and the conversations of those that succeeded.

    Only what an attempt told is in memory; conversations, with their pictures, stay in their file.

    Raises UserError for a file that is not a log of attempts, naming it and the line.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: tuple[BinaryIO, BinaryIO] | None = None  # the attempts and the conversations, once there are some
        self._made: dict[str, dict[CollectionStage, dict[int, Attempt]]] = {}
        self._places: dict[tuple[str, int], tuple[int, int]] = {}  # (question, number) -> offset, length
        self._conversations = folder / CONVERSATIONS
        attempts = folder / ATTEMPTS
        for path in (attempts, self._conversations):
            if path.exists():
                mend_last_line(path)
        if attempts.exists():
            for number, row in read_json_lines(attempts):
                self._note(_attempt(row, f"{attempts}, line {number}"))
        self._index()

    def __enter__(self) -> AttemptLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files or ():
            file.close()

    def made(self, key: str, stage: CollectionStage, number: int) -> Attempt | None:
        """What an attempt told, if it was made."""
        return self._made.get(key, {}).get(stage, {}).get(number)

    def of(self, key: str, stage: CollectionStage) -> list[Attempt]:
        """Attempts of a stage in the order of their numbers."""
        attempts = self._made.get(key, {}).get(stage, {})
        return [attempts[number] for number in sorted(attempts)]

    def __iter__(self) -> Iterator[Attempt]:
        for stages in self._made.values():
            for attempts in stages.values():
                yield from attempts.values()

    def add(self, attempt: Attempt, conversation: Example | None = None) -> None:
        """Writes an attempt; its conversation first, so that a success is never without one."""
        if self._files is None:
            log = (self._folder / ATTEMPTS).open("ab", buffering=0)
            self._files = log, self._conversations.open("ab", buffering=0)
        attempts, conversations = self._files
        if conversation is not None:
            row = {"number": attempt.number, "key": attempt.question, **example_json(conversation)}
            line = json_line(self._conversations, len(self._places) + 1, row).encode()
            self._places[attempt.question, attempt.number] = (conversations.seek(0, 2), len(line))
            _whole(conversations, line)
        _whole(attempts, (json.dumps(asdict(attempt)) + "\n").encode())
        self._note(attempt)

    def conversation(self, key: str, number: int) -> dict[str, Any] | None:
        """The conversation of a success of the sampling, as `data.files` writes it; None if there is none."""
        place = self._places.get((key, number))
        if place is None:
            return None
        with self._conversations.open("rb") as file:
            file.seek(place[0])
            row: dict[str, Any] = json.loads(file.read(place[1]))
        del row["key"], row["number"]
        return row

    def _note(self, attempt: Attempt) -> None:
        stages = self._made.setdefault(attempt.question, {})
        stages.setdefault(attempt.stage, {})[attempt.number] = attempt

    def _index(self) -> None:
        if not self._conversations.exists():
            return
        offset = 0
        with self._conversations.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                    self._places[str(row["key"]), int(row["number"])] = (offset, len(line))
                except (ValueError, KeyError, TypeError):
                    raise UserError(
                        f"{self._conversations}, line {number}: not a conversation that `hypereyes collect` wrote; "
                        "remove the file together with its attempts.jsonl, or name another --out"
                    ) from None
                offset += len(line)


def _attempt(row: Any, where: str) -> Attempt:
    names = {field.name for field in fields(Attempt)}
    try:
        if not isinstance(row, dict) or set(row) != names:
            raise ValueError("its fields are not those of an attempt")
        return Attempt(**{**row, "stage": CollectionStage(row["stage"]), "number": int(row["number"])})
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: not an attempt that `hypereyes collect` wrote ({error})") from None


def _whole(file: BinaryIO, line: bytes) -> None:
    """One write, so that a kill leaves the line or nothing but a torn last one."""
    count = file.write(line)
    if count != len(line):
        raise OSError(f"only {count} of {len(line)} bytes could be written to {file.name}")
