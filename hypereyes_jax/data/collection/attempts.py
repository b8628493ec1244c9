"""The attempts of a collection on disk: each is written as it is made, so that a run that was killed goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from hypereyes_jax.data.collection.types import Attempt, CollectionStage
from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.files import example_json, json_line
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import mend_last_line, open_regular, parse_file_json, read_json_lines, writing
from hypereyes_jax.runs.typed_json import ShapeError, from_json

ATTEMPTS, CONVERSATIONS = "attempts.jsonl", "conversations.jsonl"


class AttemptLog:
    """Attempts so far, and the conversations of those that succeeded.

    Only what an attempt told is in memory; conversations, with their pictures, stay in their file.

    Raises UserError for a file that is not a log of attempts, or that is another run's, naming it and the line.
    """

    def __init__(self, folder: Path, run: str = ""):
        """`run` is the id that attempts get; those that carry another are refused."""
        self._run = run
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: tuple[BinaryIO, BinaryIO] | None = None  # the attempts and the conversations, once there are some
        self._made: dict[str, dict[CollectionStage, dict[int, Attempt]]] = {}
        self._places: dict[tuple[str, int], tuple[int, int]] = {}  # (question, number) -> offset, length
        self._conversations = folder / CONVERSATIONS
        attempts = folder / ATTEMPTS
        for path in (attempts, self._conversations):
            mend_last_line(path)
        if os.path.lexists(attempts):
            for number, row in read_json_lines(attempts):
                attempt = _attempt(row, f"{attempts}, line {number}")
                if run and attempt.run not in ("", run):
                    raise UserError(
                        f"{attempts}, line {number}: another run made this attempt. Put this run's own file back, or "
                        "choose another directory."
                    )
                self._note(attempt)
        self._index()

    def __enter__(self) -> AttemptLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files or ():
            file.close()

    def made(self, key: str, stage: CollectionStage, number: int) -> Attempt | None:
        """What an attempt told, if it was made.

        A success of the sampling whose conversation is lost tells nothing: it has to be made again.
        """
        attempt = self._made.get(key, {}).get(stage, {}).get(number)
        lost = stage is CollectionStage.SAMPLING and (key, number) not in self._places
        return None if attempt is not None and attempt.correct and lost else attempt

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
            with writing(self._folder):
                log = (self._folder / ATTEMPTS).open("ab", buffering=0)
                self._files = log, self._conversations.open("ab", buffering=0)
        attempts, conversations = self._files
        attempt = replace(attempt, run=self._run)
        if conversation is not None:
            row = {"number": attempt.number, "key": attempt.question, **example_json(conversation)}
            line = json_line(self._conversations, len(self._places) + 1, row).encode()
            self._places[attempt.question, attempt.number] = (conversations.seek(0, 2), len(line))
            attempt = replace(attempt, conversation=hashlib.sha256(line).hexdigest())
            _whole(conversations, line)
        _whole(attempts, (json.dumps(asdict(attempt)) + "\n").encode())
        self._note(attempt)

    def conversation(self, key: str, number: int) -> dict[str, Any] | None:
        """The conversation of a success of the sampling, as `data.files` writes it; None if there is none.

        Raises UserError for one that is not what was written with the attempt.
        """
        place = self._places.get((key, number))
        attempt = self.made(key, CollectionStage.SAMPLING, number)
        if place is None or attempt is None:
            return None
        with open_regular(self._conversations) as file:
            file.seek(place[0])
            line = file.read(place[1])
        if attempt.conversation not in ("", hashlib.sha256(line).hexdigest()):
            raise UserError(
                f"{self._conversations}: the conversation of attempt {number} at question {key} is not the one that "
                "was made here. Put the file back, or remove it, and its attempts are made again."
            )
        row: dict[str, Any] = json.loads(line)
        del row["key"], row["number"]
        return row

    def _note(self, attempt: Attempt) -> None:
        stages = self._made.setdefault(attempt.question, {})
        stages.setdefault(attempt.stage, {})[attempt.number] = attempt

    def _index(self) -> None:
        if not os.path.lexists(self._conversations):
            return
        offset = 0
        with open_regular(self._conversations) as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = parse_file_json(line)
                    self._places[str(row["key"]), int(row["number"])] = (offset, len(line))
                except (ValueError, KeyError, TypeError):
                    raise UserError(
                        f"{self._conversations}, line {number}: not a conversation that `hypereyes collect` wrote; "
                        "remove the file together with its attempts.jsonl, or name another --out"
                    ) from None
                offset += len(line)


def _attempt(row: Any, where: str) -> Attempt:
    try:
        attempt = from_json(Attempt, row)
        if min(attempt.number, attempt.rounds, attempt.invocations, attempt.read, attempt.written, attempt.seconds) < 0:
            raise ShapeError("its numbers must not be negative")
    except ShapeError as error:
        raise UserError(
            f"{where}: not an attempt that `hypereyes collect` wrote ({error}). Remove that line, and the attempt is "
            "made again."
        ) from None
    return attempt


def _whole(file: BinaryIO, line: bytes) -> None:
    """One write, so that a kill leaves the line or nothing but a torn last one."""
    count = file.write(line)
    if count != len(line):
        raise OSError(f"only {count} of {len(line)} bytes could be written to {file.name}")
