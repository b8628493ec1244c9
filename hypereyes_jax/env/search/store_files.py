"""Where a store may lie, and whether a file is one: checked before a row of it is believed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from hypereyes_jax.errors import UserError

VERSION = 2
_COLUMNS = """(
  key BLOB PRIMARY KEY, engine TEXT NOT NULL, tool TEXT NOT NULL, query TEXT NOT NULL, k INTEGER NOT NULL,
  hits TEXT NOT NULL, cost REAL NOT NULL, seconds REAL NOT NULL, created REAL NOT NULL, run TEXT NOT NULL
)"""
_RUNS = "CREATE TABLE runs (id TEXT PRIMARY KEY, ended REAL NOT NULL, mode TEXT NOT NULL, summary TEXT NOT NULL)"
# Version 1 had its rows in the key's tree, which leaves most of each page empty where results are long: 4,689 bytes a
# row against 1,414 of an ordinary table.
_TABLES = {
    1: {"searches": f"CREATE TABLE searches {_COLUMNS} WITHOUT ROWID", "runs": _RUNS},
    2: {"searches": f"CREATE TABLE searches {_COLUMNS}", "runs": _RUNS},
}
# SQLite's WAL mode needs memory that processes share, which these do not give; several lose locks, too.
_NETWORK = (
    "nfs", "cifs", "smb", "lustre", "ceph", "glusterfs", "fuse.glusterfs", "beegfs", "gpfs", "afs", "wekafs", "pvfs",
    "orangefs", "panfs", "ocfs", "fuse.sshfs", "fuse.gcsfuse", "fuse.s3fs", "fuse.juicefs", "fuse.rclone",
    "fuse.goofys", "davfs", "fuse.ceph",
)  # fmt: skip
MOUNTS = Path("/proc/self/mountinfo")


def refuse_network_file_system(path: Path) -> None:
    """Raises UserError for a store on a file system that SQLite can't be used on by several processes."""
    kind = file_system(path)
    if kind.startswith(_NETWORK):
        raise UserError(
            f"{path} is on a network file system ({kind}), where SQLite loses or corrupts searches. Put the store on a "
            "disk of this machine and bring stores of several machines together with `hypereyes search-store merge`, "
            "or share one in PostgreSQL: postgresql://user@host/database."
        )


def file_system(path: Path) -> str:
    """The type of the file system that a path is, or will be, on; "" where this system does not tell."""
    real, best, kind = Path(os.path.realpath(path)), -1, ""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        left, separator, right = line.partition(" - ")
        fields = left.split()
        if not separator or len(fields) < 5 or not right:
            continue
        point = Path(fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if (real == point or point in real.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split()[0]
    return kind


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that the block writes, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has ended it itself where the disk is full
            connection.execute("ROLLBACK")
        raise


def create(connection: sqlite3.Connection) -> None:
    """Makes the tables of a new store, unless another process has just done so."""
    with transaction(connection):
        if version_of(connection) == 0:
            for sql in _TABLES[VERSION].values():
                connection.execute(sql)
            connection.execute(f"PRAGMA user_version = {VERSION}")


def upgrade(connection: sqlite3.Connection) -> None:
    """Moves the rows of a store of version 1 into an ordinary table, all or none."""
    with transaction(connection):
        if version_of(connection) == 1:
            connection.execute("ALTER TABLE searches RENAME TO searches_1")
            connection.execute(_TABLES[2]["searches"])
            connection.execute("INSERT INTO searches SELECT * FROM searches_1")
            connection.execute("DROP TABLE searches_1")
            connection.execute(f"PRAGMA user_version = {VERSION}")


def version_of(connection: sqlite3.Connection) -> int:
    """The version of a store's schema; 0 for a file that has none."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_schema(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a store, 0 for an empty database.

    Raises:
      UserError: its schema is not exactly ours: a view, a trigger, an index or a column of somebody else's could run
        or change what we do.
    """
    version = version_of(connection)
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    # SQLite's own indexes have no text; a trigger may have a name like theirs.
    objects = {
        (kind, name): " ".join(str(sql or "").split())
        for kind, name, sql in rows
        if not (kind == "index" and sql is None and str(name).startswith("sqlite_autoindex_"))
    }
    if version == 0 and not objects:
        return 0
    if version > VERSION:
        raise UserError(f"{path} has store version {version}; this program reads {VERSION}. Update it.")
    expected = {("table", name): " ".join(sql.split()) for name, sql in _TABLES.get(version, {}).items()}
    loose = {key: sql.replace("IF NOT EXISTS ", "") for key, sql in objects.items()}
    if version == 0 or loose != expected:
        raise UserError(f"{path} is another program's database, or was changed. Choose another file for the searches.")
    return version
