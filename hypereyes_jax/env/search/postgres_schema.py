"""The tables of a search store in PostgreSQL: made once, and checked before a row of them is believed."""

from __future__ import annotations

from typing import Any

from hypereyes_jax.errors import UserError

SCHEMA = "hypereyes_searches"
VERSION = 1
# PostgreSQL's text holds no NUL, and a query may: its bytes are stored. Dollars of budgets are added exactly.
_TABLES = {
    "searches": (
        "key bytea PRIMARY KEY, engine text NOT NULL, tool text NOT NULL, query bytea NOT NULL, k integer NOT NULL, "
        "hits text NOT NULL, cost double precision NOT NULL, seconds double precision NOT NULL, "
        "created double precision NOT NULL, run text NOT NULL"
    ),
    "runs": "id text PRIMARY KEY, ended double precision NOT NULL, mode text NOT NULL, summary text NOT NULL",
    # searches under way: whose they are, and until when that is believed without word of the process
    "claims": "key bytea PRIMARY KEY, token text NOT NULL, until timestamptz NOT NULL",
    # what a run has spent, and when its next request would be due at its rate (the virtual schedule of a leaky bucket)
    "budgets": "name text PRIMARY KEY, spent numeric NOT NULL, due timestamptz NOT NULL",
    "charges": "id text PRIMARY KEY, budget text NOT NULL, price numeric NOT NULL, made timestamptz NOT NULL",
}
_LOCK = 0x68797065  # of the database's advisory locks: one process makes the tables


def prepare(connection: Any, name: str, read_only: bool) -> None:
    """Makes the tables where there are none.

    Args:
      connection: of psycopg, in autocommit mode.
      name: of the store, for messages.

    Raises:
      UserError: the tables are not exactly ours, of a newer version, or, where nothing may be written, not there.
    """
    if _present(connection, name):
        return
    if read_only:
        raise UserError(f"there is no search store in {name}: it is made by the first command that searches with it.")
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        if _present(connection, name):
            return
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        for table, columns in _TABLES.items():
            connection.execute(f"CREATE TABLE {SCHEMA}.{table} ({columns})")
        connection.execute(f"COMMENT ON SCHEMA {SCHEMA} IS 'hypereyes-jax searches, version {VERSION}'")


def _present(connection: Any, name: str) -> bool:
    """Whether the tables are there. A trigger, a view or a rule of somebody else's could change what we do."""
    row = connection.execute(
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s", (SCHEMA,)
    ).fetchone()
    tables = connection.execute(
        "SELECT c.relname, c.relkind::text, c.relhastriggers OR c.relhasrules OR c.relrowsecurity FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind NOT IN ('i', 't')",
        (SCHEMA,),
    ).fetchall()
    if row is None or (not tables and row[0] is None):
        return False
    columns = connection.execute(
        "SELECT table_name, column_name || ' ' || CASE data_type WHEN 'timestamp with time zone' THEN 'timestamptz' "
        "ELSE data_type END FROM information_schema.columns WHERE table_schema = %s ORDER BY ordinal_position",
        (SCHEMA,),
    ).fetchall()
    version = str(row[0]).removeprefix("hypereyes-jax searches, version ")
    if version.isdecimal() and int(version) > VERSION:
        raise UserError(f"{name} has store version {version}; this program reads {VERSION}. Update it.")
    ours = {
        table: [each.replace(" NOT NULL", "").replace(" PRIMARY KEY", "") for each in text.split(", ")]
        for table, text in _TABLES.items()
    }
    theirs: dict[str, list[str]] = {table: [] for table, _, _ in tables}
    for table, column in columns:
        theirs.setdefault(table, []).append(column)
    plain = all(kind == "r" and not altered for _, kind, altered in tables)
    if version != str(VERSION) or theirs != ours or not plain:
        raise UserError(
            f"the schema {SCHEMA} of {name} is another program's, or was changed. Choose another database for the "
            "searches."
        )
    return True
