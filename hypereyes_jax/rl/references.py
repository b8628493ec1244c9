"""The moving references of TRACE: the fewest rounds and invocations known to answer each question."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

_FORMAT = "hypereyes-references-1"


class Reference(NamedTuple):
    """Counts of one successful rollout. Compares lexicographically: fewer rounds first, then fewer invocations."""

    rounds: int
    invocations: int


NO_REFERENCE = Reference(-1, -1)


class ReferenceFileError(ValueError):
    """A reference file is damaged or is something else."""


class ReferenceStore:
    """The reference of each question, tightened by the successful rollouts of training.

    `observe` is told of every correct rollout; a reference is replaced only by a rollout that is strictly better in
    lexicographic order, both counts coming from that one rollout. Hence rounds never rise, while invocations may rise
    when rounds fall. With `tighten="epoch"` (the paper) better counts wait until `commit`, which the trainer calls at
    the end of each epoch; with `tighten="step"` they count at once, and with `tighten="never"` the references stay what
    they were at first, for comparison. The result does not depend on the order of observations. Methods may be called
    from several threads.

    Keys are question ids; an integer is the same key as its decimal text, since files hold text.

    Source: reference update of TRACE, arXiv 2605.07177; order and acceptance rule from the authors' published code.
    """

    def __init__(
        self,
        initial: Mapping[Any, tuple[int, int]] | None = None,
        tighten: Literal["epoch", "step", "never"] = "epoch",
    ):
        """Starts from the references found during data selection, (rounds, invocations) for each key."""
        if tighten not in ("epoch", "step", "never"):
            raise ValueError(f'ReferenceStore: tighten must be "epoch", "step" or "never", got {tighten!r}.')
        self.tighten = tighten
        self._lock = threading.Lock()
        self._current = {str(key): Reference(int(c), int(s)) for key, (c, s) in (initial or {}).items()}
        self._pending: dict[str, Reference] = {}

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, key: object) -> bool:
        return str(key) in self._current

    def get(self, key: str | int) -> Reference:
        """The reference in force; if there is none, (-1, -1), which `trace_reward` understands."""
        return self._current.get(str(key), NO_REFERENCE)

    def observe(self, key: str | int, rounds: int, invocations: int) -> None:
        """Takes in one correct rollout. Rollouts without a search (rounds <= 0) are not evidence and are ignored.

        Raises:
          ValueError: a round is counted but no invocation, or a count of invocations is negative. Nobody can search
            less than once in a round, and a reference of no searches would make every honest rollout redundant for
            good.
        """
        candidate = Reference(int(rounds), int(invocations))
        if candidate.invocations < 0 or (candidate.rounds > 0 and candidate.invocations == 0):
            raise ValueError(
                f"ReferenceStore.observe: invocations must be positive where rounds are, got {rounds} rounds and "
                f"{invocations} invocations for {key!r}."
            )
        if candidate.rounds <= 0 or self.tighten == "never":
            return
        with self._lock:
            target = self._current if self.tighten == "step" else self._pending
            if _better(candidate, self._current.get(str(key))) and _better(candidate, target.get(str(key))):
                target[str(key)] = candidate

    def commit(self) -> int:
        """Puts the better counts seen since the last commit in force; returns how many references changed."""
        with self._lock:
            count = len(self._pending)
            self._current.update(self._pending)
            self._pending = {}
        return count

    def state(self) -> dict[str, Any]:
        """All of the store as JSON values, uncommitted counts included: for the cursor of a checkpoint."""
        with self._lock:
            return {
                "tighten": self.tighten,
                "current": {key: list(counts) for key, counts in self._current.items()},
                "pending": {key: list(counts) for key, counts in self._pending.items()},
            }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ReferenceStore:
        """The store that `state` described."""
        store = cls(state["current"], state["tighten"])
        store._pending = {key: Reference(*counts) for key, counts in state["pending"].items()}
        return store

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the store, uncommitted counts included, to a JSON file, replacing it atomically.

        Killed at any moment, the path holds either the whole old file or the whole new one. One process writes; on a
        pod, the first.

        Raises:
          OSError: the file cannot be written (the old one is then still in place).
        """
        path = Path(path)
        body = self.state()
        document = {"format": _FORMAT, "sha256": _digest(body), **body}
        draft = path.with_name(f".{path.name}.draft")
        try:
            with open(draft, "w", encoding="utf-8") as file:
                json.dump(document, file, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())  # else the rename may reach the disk before the contents do
            os.replace(draft, path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ReferenceStore:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: there is no such file.
          ReferenceFileError: the file is damaged or is something else.
        """
        path = Path(path)
        if path.exists() and not path.is_file():  # reading a FIFO would wait for ever
            raise ReferenceFileError(f"{path} is not a regular file. Give the path of a reference file.")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ReferenceFileError(
                f"{path} can't be read ({error.strerror}). Give a file that you may read."
            ) from None
        try:
            document = json.loads(content)
            if not isinstance(document, dict) or document.pop("format", None) != _FORMAT:
                raise ReferenceFileError(f'not a reference file (no "format": "{_FORMAT}")')
            if document.pop("sha256", None) != _digest(document):
                raise ReferenceFileError("its contents do not match its checksum")
        except (ValueError, RecursionError) as error:  # JSON and text decoding errors are ValueErrors too
            raise ReferenceFileError(
                f"{path}: damaged reference file ({error}). Restore it from a checkpoint's copy, or delete it to start "
                "again from the references of the data."
            ) from error
        return cls.from_state(document)


def _better(candidate: Reference, present: Reference | None) -> bool:
    return present is None or _unknown_is_worst(candidate) < _unknown_is_worst(present)


def _unknown_is_worst(reference: Reference) -> tuple[float, ...]:
    return tuple(math.inf if count < 0 else count for count in reference)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
