"""What was searched and found, on disk: one SQLite file that many processes read and write at once.

Each write is a transaction of its own in WAL mode, so a kill -9 loses at most the searches in flight and can't corrupt
the file. Failures are never stored; an empty result is stored as one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.errors import UserError

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS searches (
  key BLOB PRIMARY KEY, engine TEXT NOT NULL, tool TEXT NOT NULL, query TEXT NOT NULL, k INTEGER NOT NULL,
  hits TEXT NOT NULL, cost REAL NOT NULL, seconds REAL NOT NULL, created REAL NOT NULL, run TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, ended REAL NOT NULL, mode TEXT NOT NULL, summary TEXT NOT NULL);
"""


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


class SearchStore:
    """A store file. Safe for threads and processes; each thread has its own connection.

    Raises:
      UserError: the file is not a store, is damaged, was written by a newer version, or the disk is full.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._connection()

    def get(self, key: bytes) -> StoredSearch | None:
        with self._errors():
            row = self._connection().execute("SELECT * FROM searches WHERE key = ?", (key,)).fetchone()
        return None if row is None else _read(row)

    def put(self, search: StoredSearch, *, replace: bool = False) -> StoredSearch:
        """Stores a search and returns what the store now holds: where another process was first, its result stays."""
        verb = "REPLACE" if replace else "IGNORE"
        row = (
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
        with self._errors():
            cursor = self._connection().execute(f"INSERT OR {verb} INTO searches VALUES (?,?,?,?,?,?,?,?,?,?)", row)
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
        with self._errors():
            yield from map(_read, self._connection().execute("SELECT * FROM searches ORDER BY key"))

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
                connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, _VERSION):
                    raise UserError(
                        f"{self.path} has store version {version}; this program reads {_VERSION}. Update it."
                    )
                if version == 0:
                    self._create(connection)
            self._local.connection = connection
            with self._lock:
                self._open.append(connection)
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        if connection.execute("SELECT count(*) FROM sqlite_master WHERE name NOT IN ('searches', 'runs')").fetchone()[
            0
        ]:
            tables = {row[0] for row in connection.execute("SELECT tbl_name FROM sqlite_master")}
            if tables - {"searches", "runs"}:
                raise UserError(f"{self.path} is another program's database. Choose another file for the searches.")
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"can't use the search store {self.path}: {error}. Free the disk or choose another file."
            ) from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path} is not a search store or is damaged ({error}). Move it away.") from error


def _write(hits: tuple[SearchHit, ...]) -> str:
    return json.dumps([[hit.title, hit.content, hit.score, hit.url] for hit in hits], ensure_ascii=False)


def _read(row: tuple) -> StoredSearch:
    _, engine, tool, query, k, hits, cost, seconds, created, run = row
    found = tuple(SearchHit(title, content, score, url) for title, content, score, url in json.loads(hits))
    return StoredSearch(engine, tool, query, k, found, cost, seconds, created, run)
