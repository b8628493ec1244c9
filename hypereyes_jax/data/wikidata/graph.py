"""The graph on disk: one SQLite file with entities, labels, edges and numbers; multi-million edges on a laptop."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from hypereyes_jax.data.wikidata.statements import SUBCLASS, TYPE, WikidataEntity
from hypereyes_jax.errors import UserError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entity (id INTEGER PRIMARY KEY, sitelinks INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS label (id INTEGER PRIMARY KEY, text TEXT NOT NULL, about TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS property (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS alias (id INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (id, text)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS edge (subject INTEGER NOT NULL, property INTEGER NOT NULL, object INTEGER NOT NULL,
                                 PRIMARY KEY (subject, property, object)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS number (subject INTEGER NOT NULL, property INTEGER NOT NULL, value REAL NOT NULL,
                                   PRIMARY KEY (subject, property, value)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS subclass (parent INTEGER NOT NULL, child INTEGER NOT NULL,
                                     PRIMARY KEY (parent, child)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS edge_by_object ON edge (property, object, subject);
CREATE INDEX IF NOT EXISTS number_by_value ON number (property, value, subject);
CREATE INDEX IF NOT EXISTS label_by_text ON label (text);
"""
_TYPES = f"SELECT object FROM edge WHERE subject = ? AND property = {TYPE}"
# A class is below many by several ways, and some are below themselves: UNION keeps each once.
_BELOW = """
WITH RECURSIVE below (id) AS (VALUES (?) UNION SELECT child FROM subclass JOIN below ON parent = below.id)
SELECT id FROM below
"""
_FORM = 0x48594752  # application id: "HYGR"
_CURE = "Remove it, and the same command reads the dump again; or choose another directory."
_CACHE_KIB = 65_536  # of SQLite's pages in memory


class Named(NamedTuple):
    """An entity with its label and description."""

    number: int
    label: str
    about: str


def _schema_of(database: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    """All that a file defines but the statistics of ANALYZE, whose tables differ between builds of SQLite."""
    rows = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    return {row for row in rows if not (row[0] == "table" and str(row[1]).startswith("sqlite_stat"))}


def _own_schema() -> set[tuple[str, str, str | None]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(_SCHEMA + _INDEXES)
        return _schema_of(empty)


class Graph:
    """Entities and what is stated of them. One connection, used by one thread at a time."""

    def __init__(self, path: Path):
        """Opens or makes the file. Raises UserError for a file that is not such a graph, or that can't be written."""
        self.path = path
        self._below: dict[int, frozenset[int]] = {}
        try:
            self._db = sqlite3.connect(path)
            form = self._db.execute("PRAGMA application_id").fetchone()[0]
            schema = _schema_of(self._db)
            if schema and (form != _FORM or not schema <= _own_schema()):  # a trigger or view of a stranger's would run
                raise UserError(f"{path} is a database of something else, or was changed. {_CURE}")
            self._db.executescript(
                f"PRAGMA trusted_schema=OFF; PRAGMA application_id={_FORM}; PRAGMA journal_mode=WAL; "
                f"PRAGMA synchronous=NORMAL; PRAGMA cache_size=-{_CACHE_KIB}; {_SCHEMA}"
            )
        except sqlite3.Error as error:
            raise UserError(f"{path} can't be used as a graph ({error}). {_CURE}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it. Raises UserError for what SQLite found damaged while it was used."""
        self.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise UserError(f"{self.path} can't be used as a graph ({error}). {_CURE}") from error

    def close(self) -> None:
        self._db.close()

    # Writing

    def add(self, entities: Iterable[WikidataEntity], progress: Mapping[str, str]) -> None:
        """Entities with their statements, and how far reading is, in one transaction: a kill loses both or neither."""
        self._below.clear()
        with self._db:
            for entity in entities:
                if entity.is_property:
                    self._db.execute("INSERT OR REPLACE INTO property VALUES (?, ?)", (entity.number, entity.label))
                    continue
                name = (entity.number, entity.label, entity.description)
                self._db.execute("INSERT OR REPLACE INTO label VALUES (?, ?, ?)", name)
                self._db.execute("INSERT OR REPLACE INTO entity VALUES (?, ?)", (entity.number, entity.sitelinks))
                for table, rows in (("edge", entity.edges), ("number", entity.values)):
                    self._db.executemany(
                        f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?)", ((entity.number, *row) for row in rows)
                    )
                above = [(entity.number, item) for prop, item in entity.edges if prop == SUBCLASS]
                self._db.executemany("INSERT OR IGNORE INTO subclass (child, parent) VALUES (?, ?)", above)
                self._db.executemany(
                    "INSERT OR IGNORE INTO alias VALUES (?, ?)", ((entity.number, text) for text in entity.aliases)
                )
            self._note(progress)

    def add_subclasses(self, pairs: Iterable[tuple[int, int]], progress: Mapping[str, str]) -> None:
        """(class, the class above it) of items that are not kept themselves."""
        self._below.clear()
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO subclass (child, parent) VALUES (?, ?)", pairs)
            self._note(progress)

    def add_labels(self, names: Iterable[Named], progress: Mapping[str, str]) -> None:
        """Names of items that statements point to without being kept themselves."""
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO label VALUES (?, ?, ?)", names)
            self._note(progress)

    def progress(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT name, value FROM progress"))

    def finish(self) -> None:
        """Makes the indexes that walks need; done once, after reading."""
        self._db.executescript(f"{_INDEXES} ANALYZE;")

    def unlabelled(self) -> Iterable[int]:
        """Items that statements point to and that have no label yet."""
        rows = self._db.execute(
            "SELECT DISTINCT object FROM edge WHERE NOT EXISTS (SELECT 1 FROM label WHERE label.id = edge.object)"
        )
        return (row[0] for row in rows)

    def _note(self, progress: Mapping[str, str]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO progress VALUES (?, ?)", progress.items())

    # Reading

    def counts(self) -> dict[str, int]:
        """Rows of each table."""
        tables = ("entity", "label", "property", "alias", "edge", "number")
        return {name: self._db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}

    def entity_at(self, place: float) -> int | None:
        """An entity by its place in the order of ids, 0 to 1: for drawing one at random; None if there is none."""
        low, high = self._db.execute("SELECT min(id), max(id) FROM entity").fetchone()
        if low is None:
            return None
        least = low + int(place * (high - low + 1))
        row = self._db.execute("SELECT id FROM entity WHERE id >= ? ORDER BY id LIMIT 1", (least,)).fetchone()
        return int(row[0]) if row else int(high)

    def label(self, number: int) -> str:
        """ "" for an item without one."""
        row = self._db.execute("SELECT text FROM label WHERE id = ?", (number,)).fetchone()
        return str(row[0]) if row else ""

    def namesakes(self, number: int) -> tuple[int, ...]:
        """The item and all others that have its label: words can't tell them apart. Slow before `finish`."""
        rows = self._db.execute("SELECT id FROM label WHERE text = ? ORDER BY id", (self.label(number),))
        return tuple(row[0] for row in rows) or (number,)

    def property_label(self, number: int) -> str:
        row = self._db.execute("SELECT text FROM property WHERE id = ?", (number,)).fetchone()
        return str(row[0]) if row else ""

    def aliases(self, number: int) -> tuple[str, ...]:
        return tuple(row[0] for row in self._db.execute("SELECT text FROM alias WHERE id = ? ORDER BY text", (number,)))

    def types(self, number: int) -> tuple[int, ...]:
        return tuple(item for prop, item in self.edges(number) if prop == TYPE)

    def edges(self, number: int) -> list[tuple[int, int]]:
        """(property, item) of an entity."""
        return self._db.execute("SELECT property, object FROM edge WHERE subject = ?", (number,)).fetchall()

    def numbers(self, number: int) -> list[tuple[int, float]]:
        """(property, value) of an entity."""
        return self._db.execute("SELECT property, value FROM number WHERE subject = ?", (number,)).fetchall()

    def pointing(self, number: int, limit: int) -> list[tuple[int, int]]:
        """(property, entity) of what points to an item, at most `limit`. Slow before `finish`."""
        return self._db.execute(
            "SELECT property, subject FROM edge WHERE object = ? LIMIT ?", (number, limit)
        ).fetchall()

    def with_edge(self, prop: int, item: int, limit: int) -> set[int]:
        """Entities with a statement, at most `limit`."""
        rows = self._db.execute(
            "SELECT subject FROM edge WHERE property = ? AND object = ? LIMIT ?", (prop, item, limit)
        )
        return {row[0] for row in rows}

    def with_number(self, prop: int, value: float, limit: int) -> set[int]:
        rows = self._db.execute(
            "SELECT subject FROM number WHERE property = ? AND value = ? LIMIT ?", (prop, value, limit)
        )
        return {row[0] for row in rows}

    def with_chain(self, first: int, second: int, item: int, limit: int) -> set[int]:
        """Entities whose `first` is something whose `second` is the item."""
        rows = self._db.execute(
            "SELECT DISTINCT a.subject FROM edge b JOIN edge a ON a.property = ? AND a.object = b.subject "
            "WHERE b.property = ? AND b.object = ? LIMIT ?",
            (first, second, item, limit),
        )
        return {row[0] for row in rows}

    def classes_below(self, kind: int) -> frozenset[int]:
        """A class with all its subclasses, theirs, too."""
        if kind not in self._below:
            self._below[kind] = frozenset(row[0] for row in self._db.execute(_BELOW, (kind,)))
        return self._below[kind]

    def of_type(self, kind: int, entities: Iterable[int], limit: int | None = None) -> set[int]:
        """Those of the entities that are an instance of a class or of a subclass; ends at `limit` of them."""
        numbers: set[int] = set()
        kinds = self.classes_below(kind)
        for number in entities:
            if any(row[0] in kinds for row in self._db.execute(_TYPES, (number,))):
                numbers.add(number)
                if len(numbers) == limit:
                    break
        return numbers

    def without(self, prop: int, entities: Sequence[int]) -> set[int]:
        """Those of the entities of which nothing is stated with the property."""
        missing = set()
        for number in entities:
            rows = self._db.execute(
                "SELECT 1 FROM edge WHERE subject = ? AND property = ? UNION ALL "
                "SELECT 1 FROM number WHERE subject = ? AND property = ? LIMIT 1",
                (number, prop, number, prop),
            ).fetchone()
            if rows is None:
                missing.add(number)
        return missing
