"""Stores of strangers, of earlier versions, on the wrong file systems; and their size."""

import contextlib
import json
import os
import sqlite3

import pytest

from hypereyes_jax.env import SearchHit
from hypereyes_jax.env.search import store_files
from hypereyes_jax.env.search.store import SearchStore, StoredSearch
from hypereyes_jax.env.search.store_files import transaction
from hypereyes_jax.env.search.store_tools import export_store, import_store, inspect_store, merge_stores, prune_store
from hypereyes_jax.errors import UserError

HITS = tuple(
    SearchHit(f"Title {n}", "A passage of a web page. " * 12, 0.9, f"https://example.org/{n}") for n in range(3)
)


def search(query, **more):
    return StoredSearch("google", "text_search", query, 3, HITS, created=1.0, **more)


def made(path, *queries):
    store = SearchStore(path)
    for query in queries or ("Oslo",):
        store.put(search(query))
    store.close()
    return path


def version_1(path):
    """A store as the first version wrote it."""
    connection = sqlite3.connect(path)
    connection.executescript(
        """
        CREATE TABLE IF NOT EXISTS searches (
          key BLOB PRIMARY KEY, engine TEXT NOT NULL, tool TEXT NOT NULL, query TEXT NOT NULL, k INTEGER NOT NULL,
          hits TEXT NOT NULL, cost REAL NOT NULL, seconds REAL NOT NULL, created REAL NOT NULL, run TEXT NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, ended REAL NOT NULL, mode TEXT NOT NULL,
          summary TEXT NOT NULL);
        PRAGMA user_version = 1;
        """
    )
    old = search("Oslo")
    hits = json.dumps([[hit.title, hit.content, hit.score, hit.url] for hit in old.hits])
    row = (old.key, old.engine, old.tool, old.query, old.k, hits, 0.0, 0.0, 1.0, "")
    connection.execute("INSERT INTO searches VALUES (?,?,?,?,?,?,?,?,?,?)", row)
    connection.commit()
    connection.close()
    return path


def test_a_store_of_version_1_is_read_and_brought_up_to_date(tmp_path):
    path = version_1(tmp_path / "old.sqlite")
    assert inspect_store(path)["groups"][0]["searches"] == 1  # looking changes nothing
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone()[0] == 1
    store = SearchStore(path)
    assert store.get(search("Oslo").key).hits == HITS
    store.put(search("Lima"))
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
    assert (
        "WITHOUT ROWID" not in connection.execute("SELECT sql FROM sqlite_master WHERE name = 'searches'").fetchone()[0]
    )


def test_a_million_searches_need_no_more_than_1600_megabytes(tmp_path):
    store = SearchStore(tmp_path / "s.sqlite")
    rows = 3_000
    store.add_all(search(f"query number {n}") for n in range(rows))
    store.close()
    payload = len(json.dumps([[hit.title, hit.content, hit.score, hit.url] for hit in HITS]))
    assert payload > 1_000  # three results of a real service
    assert (tmp_path / "s.sqlite").stat().st_size / rows <= 1_600


HOSTILE = {
    "a view in the table's place": ("ALTER TABLE searches RENAME TO real; CREATE VIEW searches AS SELECT * FROM real;"),
    "an endless view": (
        "DROP TABLE searches; CREATE VIEW searches AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) "
        "SELECT x'00' AS key, 'e', 't', 'q', 1, '[]', 0.0, 0.0, 0.0, '' FROM n;"
    ),
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON searches BEGIN DELETE FROM searches; END;",
    "a trigger under a name of SQLite's own": (
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_master VALUES ('trigger', 'sqlite_autoindex_x', 'searches', "
        "0, 'CREATE TRIGGER sqlite_autoindex_x AFTER INSERT ON searches BEGIN DELETE FROM searches; END');"
    ),
    "an index": "CREATE INDEX i ON searches (engine);",
    "a further table": "CREATE TABLE other (x);",
    "a further column": "ALTER TABLE searches ADD COLUMN more TEXT;",
    "no table of runs": "DROP TABLE runs;",
}


@pytest.mark.parametrize("sql", HOSTILE.values(), ids=HOSTILE)
def test_a_store_whose_schema_is_not_exactly_ours_is_refused(tmp_path, sql):
    path = made(tmp_path / "theirs.sqlite")
    connection = sqlite3.connect(path)
    connection.executescript(sql)
    connection.commit()
    connection.close()
    own = made(tmp_path / "own.sqlite", "Lima")
    for use in (
        lambda: SearchStore(path),
        lambda: inspect_store(path),
        lambda: export_store(path, tmp_path / "out"),
        lambda: merge_stores(own, [path]),
        lambda: prune_store(path, empty=True),
    ):
        with pytest.raises(UserError, match="theirs"):
            use()
    assert inspect_store(own)["groups"][0]["searches"] == 1


@pytest.mark.parametrize(
    "change",
    [
        *("hits = 7", "hits = '{}'", "hits = '[[1]]'", "hits = '[[['", "query = x'00'", "k = 'three'", "cost = 'much'"),
        *(
            "k = -3",
            "cost = 9e999",
            "cost = -1.0",
            "created = x'00'",
            "seconds = -9e999",
            "run = x'ff'",
            "engine = x'00'",
        ),
    ],
)
def test_rows_of_other_kinds_are_refused_by_name(tmp_path, change):
    path = made(tmp_path / "theirs.sqlite")
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE searches SET {change}")
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match="theirs"):
        merge_stores(tmp_path / "own.sqlite", [path])
    store = SearchStore(path)
    with pytest.raises(UserError, match="theirs"):
        store.get(search("Oslo").key)
    store.close()


@pytest.mark.parametrize(
    "sql",
    [
        *(
            f"UPDATE searches SET {change}"
            for change in ("cost = 9e999", "cost = -1", "created = x'00'", "engine = x'00'")
        ),
        *(
            f"UPDATE searches SET {change}"
            for change in ("run = x'ff'", "tool = x'00'", "engine = CAST(x'ff' AS TEXT)")
        ),
        "INSERT INTO runs VALUES ('r', 9e999, 'record', '{}')",
        "INSERT INTO runs VALUES ('r', 1.0, x'00', '{}')",
    ],
)
def test_sums_over_rows_of_other_kinds_are_refused_by_name(tmp_path, sql):
    path = made(tmp_path / "theirs.sqlite")
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match="theirs"):
        inspect_store(path)


def test_a_strangers_row_under_a_false_key_answers_no_other_search(tmp_path):
    path = made(tmp_path / "theirs.sqlite", "Oslo")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE searches SET key = ?", (search("Lima").key,))
    connection.commit()
    connection.close()
    merge_stores(tmp_path / "own.sqlite", [path])
    store = SearchStore(tmp_path / "own.sqlite")
    assert store.get(search("Lima").key) is None
    assert store.get(search("Oslo").key) is not None
    store.close()


def test_sources_are_only_read(tmp_path):
    path = made(tmp_path / "theirs.sqlite", "Oslo", "Lima")
    before = path.read_bytes()
    merge_stores(tmp_path / "own.sqlite", [path])
    export_store(path, tmp_path / "out.jsonl")
    inspect_store(path)
    assert path.read_bytes() == before
    store = SearchStore(path, read_only=True)
    with pytest.raises(UserError, match="readonly"):
        store.put(search("Rome"))
    store.close()


def test_an_export_is_whole_or_absent(tmp_path, monkeypatch):
    path = made(tmp_path / "s.sqlite", "Oslo", "Lima")
    out = tmp_path / "out.jsonl"
    out.write_text("as before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        export_store(path, out)
    assert out.read_text() == "as before"
    assert sorted(each.name for each in tmp_path.iterdir() if "part" in each.name) == []
    monkeypatch.undo()
    assert export_store(path, out) == 2
    assert import_store(tmp_path / "copy.sqlite", out) == 2


def test_an_import_with_a_bad_line_adds_nothing(tmp_path):
    export_store(made(tmp_path / "s.sqlite"), tmp_path / "out.jsonl")
    good = (tmp_path / "out.jsonl").read_text()
    for change in ({"k": -1}, {"cost": float("inf")}, {"cost": 10**400}, {"query": 3}, {"hits": [{"title": "x"}]}):
        (tmp_path / "bad.jsonl").write_text(good + json.dumps(json.loads(good) | change) + "\n")
        with pytest.raises(UserError, match="line 2"):
            import_store(tmp_path / "copy.sqlite", tmp_path / "bad.jsonl")
        assert inspect_store(tmp_path / "copy.sqlite")["groups"] == []


@pytest.mark.parametrize("days", [-1, -0.001, float("nan")])
def test_an_age_that_would_select_everything_is_refused(tmp_path, days):
    path = made(tmp_path / "s.sqlite")
    with pytest.raises(UserError, match="at least 0"):
        prune_store(path, older_than_days=days)
    assert inspect_store(path)["groups"][0]["searches"] == 1


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "lustre", "cifs", "smb3", "fuse.gcsfuse", "ceph"])
def test_a_network_file_system_is_refused_by_name(tmp_path, monkeypatch, kind):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"23 22 0:40 / {tmp_path}/shared\\040data rw - {kind} server:/x rw\n"
    )
    monkeypatch.setattr(store_files, "MOUNTS", mounts)
    (tmp_path / "shared data").mkdir()
    with pytest.raises(UserError, match=kind):
        SearchStore(tmp_path / "shared data" / "s.sqlite")
    SearchStore(tmp_path / "s.sqlite").close()
    assert store_files.file_system(tmp_path) == "ext4"


def test_a_disk_that_fills_in_a_transaction_is_told_as_that(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("PRAGMA max_page_count = 8")
        with pytest.raises(sqlite3.OperationalError, match="full"), transaction(connection):
            connection.executemany("INSERT INTO t VALUES (?)", [("x" * 3000,)] * 100)
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
