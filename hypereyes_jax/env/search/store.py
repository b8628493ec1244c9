"""What was searched and found, on disk: one SQLite file that many processes of one machine read and write at once.

Each write is a transaction of its own in WAL mode, so a kill -9 loses at most the searches in flight and can't corrupt
the file. Failures are never stored; an empty result is stored as one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from hypereyes_jax.env.search.store_files import (
    VERSION,
    check_schema,
    create,
    refuse_network_file_system,
    transaction,
    upgrade,
)
from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.env.web.untrusted import parse_json
from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class StoredSearch:
    """One recorded search. `query` is the text, or "sha256:..." of an image's pixels."""

    engine: str  # the service and its settings, never a key
    tool: str
    query: str
    k: int
    hits: tuple[SearchHit, ...]
    cost: float = 0.0  # dollars
    seconds: float = 0.0
    created: float = 0.0  # Unix time
    run: str = ""

    @property
    def key(self) -> bytes:
        return search_key(self.engine, self.tool, self.query, self.k)


def search_key(engine: str, tool: str, query: str, k: int) -> bytes:
    """What a recorded search is found by: the SHA-256 of all that its result depends on."""
    return hashlib.sha256(json.dumps([engine, tool, query, k], ensure_ascii=False).encode()).digest()


def normal_query(query: str) -> str:
    """What is the same to every search service: Unicode form and spacing. Case and word order are kept."""
    return " ".join(unicodedata.normalize("NFC", query).split())


def image_query(image: Image.Image) -> str:
    """An image's content as a query: the digest of its size and RGB pixels, whatever its file or mode was."""
    pixels = image if image.mode in ("RGB", "RGBA") else image.convert("RGBA")
    digest = hashlib.sha256(f"{pixels.mode}{pixels.size}".encode())
    digest.update(pixels.tobytes())
    return f"sha256:{digest.hexdigest()}"


class StoreGroup(NamedTuple):
    """The searches of one engine and tool: how many, how many of them found nothing, dollars, Unix times."""

    engine: str
    tool: str
    searches: int
    empty: int
    cost: float
    oldest: float
    newest: float


@dataclass(frozen=True)
class Condition:
    """Which searches are deleted: those that meet all that is given."""

    engine: str | None = None
    before: float | None = None  # Unix time
    empty: bool = False  # that found nothing


_MARKS = ",".join("?" * 10)


class SearchStore:
    """A store file. Safe for threads and processes; each thread has its own connection.

    It is one of the two kinds of `stores.Store`; the other is `postgres.PostgresStore`, for several machines.

    Args:
      read_only: nothing is written, not even an upgrade: for a store of somebody else's.

    Raises:
      UserError: the file is not a store (its schema must be exactly ours), is damaged, was written by a newer version,
        is on a network file system, or the disk is full.
    """

    remote = False  # a look into it takes microseconds, and no wait
    connections = 1

    def __init__(self, path: str | Path, *, read_only: bool = False):
        self.path, self._read_only = Path(path), read_only
        self.name = str(self.path)
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        refuse_network_file_system(self.path)
        self._connection()

    def get(self, key: bytes) -> StoredSearch | None:
        with self._errors():
            row = self._connection().execute("SELECT * FROM searches WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._read(row)

    def put(self, search: StoredSearch, *, replace: bool = False) -> StoredSearch:
        """Stores a search and returns what the store now holds: where another process was first, its result stays."""
        verb = "REPLACE" if replace else "IGNORE"
        with self._errors():
            cursor = self._connection().execute(f"INSERT OR {verb} INTO searches VALUES ({_MARKS})", row_of(search))
        if cursor.rowcount:
            return search
        return self.get(search.key) or search

    def end_run(self, run: str, mode: str, summary: dict[str, object]) -> None:
        """Records what a run did and cost."""
        with self._errors():
            self._connection().execute(
                "INSERT OR REPLACE INTO runs VALUES (?,?,?,?)", (run, time.time(), mode, json.dumps(summary))
            )

    def rows(self, sql: str, arguments: tuple[object, ...] = ()) -> list[tuple]:
        """Runs one SQL statement, for the store's own tools."""
        with self._errors():
            return self._connection().execute(sql, arguments).fetchall()

    def searches(self) -> Iterator[StoredSearch]:
        """All searches, in the order of their keys. Raises UserError for a row that is none of ours."""
        with self._errors():
            for row in self._connection().execute("SELECT * FROM searches ORDER BY key"):
                yield self._read(row)

    def add_all(self, searches: Iterable[StoredSearch]) -> int:
        """Adds the searches that the store does not hold, in one transaction; returns how many."""
        count = 0
        with self._errors():
            connection = self._connection()
            with transaction(connection):
                for search in searches:
                    cursor = connection.execute(f"INSERT OR IGNORE INTO searches VALUES ({_MARKS})", row_of(search))
                    count += cursor.rowcount
        return count

    def runs(self) -> list[tuple[str, float, str, str]]:
        """(id, end, mode, summary as JSON) of each run that used the store."""
        rows = self.rows("SELECT id, ended, mode, summary FROM runs ORDER BY ended, id")
        if not all(are_of(row, (str, float, str, str)) for row in rows):
            raise UserError(f"{self.path} holds a run that this program did not write. Move the file away.")
        return rows

    def add_runs(self, runs: Iterable[tuple[str, float, str, str]]) -> None:
        """Adds the runs, as `runs` gives them, that the store does not hold."""
        for run in runs:
            self.rows("INSERT OR IGNORE INTO runs VALUES (?,?,?,?)", run)

    def groups(self) -> list[StoreGroup]:
        rows = self.rows(
            "SELECT engine, tool, count(*), sum(hits = '[]'), sum(cost), min(created), max(created) FROM searches "
            "GROUP BY engine, tool ORDER BY engine, tool"
        )
        return [StoreGroup(*row) for row in self._check_kinds(rows, (str, str, int, int, float, float, float))]

    def cost_of_runs(self) -> dict[str, float]:
        """Dollars of the searches that each run recorded."""
        return dict(self._check_kinds(self.rows("SELECT run, sum(cost) FROM searches GROUP BY run"), (str, float)))

    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size

    def delete(self, condition: Condition) -> int:
        """Deletes searches, shrinks the file, and returns how many went."""
        where: list[str] = ["1 = 1"]
        values: list[object] = []
        if condition.engine is not None:
            where.append("engine = ?")
            values.append(condition.engine)
        if condition.before is not None:
            where.append("created < ?")
            values.append(condition.before)
        if condition.empty:
            where.append("hits = '[]'")
        rows = self.rows(f"DELETE FROM searches WHERE {' AND '.join(where)} RETURNING 1", tuple(values))
        self.rows("VACUUM")
        return len(rows)

    def claim(self, key: bytes, token: str) -> bool:
        """Always true: processes do not wait for each other's searches here. Of two equal ones the first stays."""
        return True

    def release(self, token: str) -> None:
        """Nothing was claimed."""

    def close(self) -> None:
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
            self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with self._errors():
                connection = self._opened()
            self._local.connection = connection
            with self._lock:
                self._open.append(connection)
        return connection

    def _opened(self) -> sqlite3.Connection:
        """A new connection to a file whose schema is ours, whatever it was before."""
        if self._read_only:
            # A file that nobody writes to, in a directory that can't be written, has no place for SQLite's own files.
            lone = (
                not os.access(self.path.parent, os.W_OK) and not self.path.with_name(f"{self.path.name}-wal").exists()
            )
            target = f"{self.path.absolute().as_uri()}?mode=ro{'&immutable=1' if lone else ''}"
        else:
            target = self.path.absolute().as_uri()
        connection = sqlite3.connect(target, timeout=60, isolation_level=None, check_same_thread=False, uri=True)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            version = check_schema(connection, self.path)
            if self._read_only:
                if version == 0:
                    raise UserError(f"{self.path} is not a search store: it is empty.")
                return connection
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            if version == 0:
                create(connection)
            elif version < VERSION:
                upgrade(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _read(self, row: tuple) -> StoredSearch:
        search = search_of(row)
        if search is None:
            raise self._strange()
        return search

    def _check_kinds(self, rows: list[tuple], kinds: tuple[type, ...]) -> list[tuple]:
        """The rows. Raises UserError if one holds values of other kinds, as sums over a stranger's rows may."""
        if not all(are_of(row, kinds) for row in rows):
            raise self._strange()
        return rows

    def _strange(self) -> UserError:
        return UserError(f"{self.path} holds a row that this program did not write. Move the file away.")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"can't use the search store {self.path}: {error}. Free the disk or choose another file."
            ) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path} is not a search store or is damaged ({error}). Move it away.") from error


def _write(hits: tuple[SearchHit, ...]) -> str:
    return json.dumps([[hit.title, hit.content, hit.score, hit.url] for hit in hits], ensure_ascii=False)


def row_of(search: StoredSearch) -> tuple[object, ...]:
    """A search as a row of a store: key, engine, tool, query, k, hits as JSON, cost, seconds, created, run."""
    return (
        search.key,
        search.engine,
        search.tool,
        search.query,
        search.k,
        _write(search.hits),
        search.cost,
        search.seconds,
        search.created or time.time(),
        search.run,
    )


def are_of(row: tuple, kinds: tuple[type, ...]) -> bool:
    """Whether a row's values are of these kinds, its numbers finite and not negative."""
    return len(row) == len(kinds) and all(
        isinstance(value, kind) and (not isinstance(value, int | float) or 0 <= value < math.inf)
        for value, kind in zip(row, kinds, strict=True)
    )


def search_of(row: tuple) -> StoredSearch | None:
    """A row as a search; None where its values are of other kinds than we write."""
    if not are_of(row, (bytes, str, str, str, int, str, float, float, float, str)) or row[4] < 1:
        return None
    _, engine, tool, query, k, hits, cost, seconds, time_of_search, run = row
    try:
        rows = parse_json(hits)
    except ValueError:
        return None
    if not isinstance(rows, list) or not all(isinstance(hit, list) and len(hit) == 4 for hit in rows):
        return None
    return StoredSearch(
        engine, tool, query, k, tuple(SearchHit(*hit) for hit in rows), cost, seconds, time_of_search, run
    )
