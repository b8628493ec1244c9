"""A search store that several machines share: a PostgreSQL database, where each search is made once over all of them
and a run's rate and spending are counted in one place. Needs the package extra `postgres`."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from hypereyes_jax.env.search.postgres_link import CONNECTIONS, PostgresLink
from hypereyes_jax.env.search.postgres_schema import SCHEMA
from hypereyes_jax.env.search.store import Condition, StoredSearch, StoreGroup, row_of, search_of
from hypereyes_jax.errors import UserError

# A claim is believed for so long without word of its process, which gives it three times as often. A search that takes
# longer keeps its claim; the searches of a process that was killed are made by others after it.
LEASE = 30.0  # seconds
_BATCH = 500  # searches a statement
_COLUMNS = "key, engine, tool, query, k, hits, cost, seconds, created, run"
_INSERT = f"INSERT INTO {SCHEMA}.searches ({_COLUMNS}) VALUES ({','.join(['%s'] * 10)}) ON CONFLICT (key) "
_REPLACE = "DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in ("hits", "cost", "seconds", "created", "run")
)
_CLAIM = f"""
INSERT INTO {SCHEMA}.claims AS earlier (key, token, until)
SELECT %(key)s, %(token)s, clock_timestamp() + make_interval(secs => %(lease)s)
WHERE NOT EXISTS (
  SELECT 1 FROM {SCHEMA}.claims WHERE key = %(key)s AND token <> %(token)s AND until > clock_timestamp())
ON CONFLICT (key) DO UPDATE SET token = excluded.token, until = excluded.until
WHERE earlier.token = excluded.token OR earlier.until <= clock_timestamp()
"""
_PAY = f"""
UPDATE {SCHEMA}.budgets
SET spent = spent + %(price)s, due = greatest(due, clock_timestamp()) + make_interval(secs => %(pause)s)
WHERE name = %(budget)s AND (%(cap)s::numeric IS NULL OR spent + %(price)s <= %(cap)s::numeric)
  AND NOT EXISTS (SELECT 1 FROM {SCHEMA}.charges WHERE id = %(token)s)
RETURNING extract(epoch FROM due - clock_timestamp())::double precision
"""
_REFUND = f"""
WITH gone AS (DELETE FROM {SCHEMA}.charges WHERE id = %s RETURNING budget, price)
UPDATE {SCHEMA}.budgets SET spent = spent - gone.price FROM gone WHERE name = gone.budget
"""


class PostgresStore:
    """A database of searches. Safe for threads, processes and machines; kills and restarts of the server lose nothing.

    It is one of the two kinds of `stores.Store`; the other is `store.SearchStore`, a file.

    Args:
      address: as `PostgresLink`.
      read_only: nothing is written, and no tables are made.
      lease: seconds after which the claims of a process that was killed end.

    Raises:
      UserError: as `PostgresLink`; of every method, too.
    """

    remote = True
    connections = CONNECTIONS

    def __init__(self, address: str, *, read_only: bool = False, lease: float = LEASE):
        self._link = PostgresLink(address, read_only=read_only)
        self.name = self._link.name
        self._lease = lease
        self._claims: set[str] = set()
        self._renewal: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        if not read_only:  # of processes that were killed, for searches that nobody has made since
            self._write(f"DELETE FROM {SCHEMA}.claims WHERE until < clock_timestamp() - interval '1 day'", ())

    def get(self, key: bytes) -> StoredSearch | None:
        sql = f"SELECT {_COLUMNS} FROM {SCHEMA}.searches WHERE key = %s"
        row = self._link.work(lambda connection: connection.execute(sql, (key,)).fetchone())
        return None if row is None else self._read(row)

    def put(self, search: StoredSearch, *, replace: bool = False) -> StoredSearch:
        """Stores a search and returns what the store now holds: where another process was first, its result stays."""
        sql, values = _INSERT + (_REPLACE if replace else "DO NOTHING"), _values(search)
        if self._link.work(lambda connection: connection.execute(sql, values).rowcount):
            return search
        return self.get(search.key) or search

    def claim(self, key: bytes, token: str) -> bool:
        """Whether the caller is to make a search; false while another process makes it. `token` is the caller's own."""
        values = {"key": key, "token": token, "lease": self._lease}
        with self._lock:
            self._claims.add(token)
            if self._renewal is None:
                self._renewal = threading.Thread(target=self._renew, name="search-claims", daemon=True)
                self._renewal.start()
        if self._link.work(lambda connection: connection.execute(_CLAIM, values).rowcount):
            return True
        with self._lock:
            self._claims.discard(token)
        return False

    def release(self, token: str) -> None:
        with self._lock:
            self._claims.discard(token)
        self._write(f"DELETE FROM {SCHEMA}.claims WHERE token = %s", (token,))

    def _renew(self) -> None:
        sql = f"UPDATE {SCHEMA}.claims SET until = clock_timestamp() + make_interval(secs => %s) WHERE token = ANY(%s)"
        while not self._closed.wait(self._lease / 3):
            with self._lock:
                tokens = sorted(self._claims)
            if tokens:
                try:
                    self._write(sql, (self._lease, tokens))
                except UserError:
                    continue  # the searches meet the same fault when they are stored, and tell it

    def open_budget(self, budget: str) -> None:
        """Begins to count a budget's spending, unless that has begun."""
        sql = f"INSERT INTO {SCHEMA}.budgets VALUES (%s, 0, clock_timestamp()) ON CONFLICT DO NOTHING"
        self._write(sql, (budget,))

    def pay(
        self, budget: str, token: str, price: float, *, cap: float | None, rate: float | None, burst: float
    ) -> float | None:
        """Pays for a request before it is sent, whoever else of the budget pays at the same moment.

        Args:
          token: of this payment, for `refund`; the same again is not paid again.
          price, cap: dollars; None = no cap.
          rate, burst: requests a second over all, and how many seconds' worth may go out at once; None = no limit.

        Returns:
          Seconds to wait before the request may be sent; None if it would exceed the cap, and must not be sent.
        """
        pause = 1.0 / rate if rate else 0.0
        values = {"budget": budget, "token": token, "pause": pause, "price": _dollars(price)}
        values["cap"] = None if cap is None else _dollars(cap)

        def act(connection: Any) -> float | None:
            with connection.transaction():
                row = connection.execute(_PAY, values).fetchone()
                if row is None:
                    paid = connection.execute(f"SELECT 1 FROM {SCHEMA}.charges WHERE id = %s", (token,)).fetchone()
                    return None if paid is None else 0.0
                connection.execute(
                    f"INSERT INTO {SCHEMA}.charges VALUES (%s, %s, %s, clock_timestamp())",
                    (token, budget, values["price"]),
                )
            debt = max(1.0, rate * burst) * pause if rate else 0.0
            return max(0.0, float(row[0]) - debt)

        return self._link.work(act)

    def refund(self, token: str) -> None:
        """Takes a payment back: its request failed without being charged."""
        self._write(_REFUND, (token,))

    def spent(self, budget: str) -> float:
        """Dollars that a budget has paid over all its processes."""
        rows = self._rows(f"SELECT spent FROM {SCHEMA}.budgets WHERE name = %s", (budget,))
        return float(rows[0][0]) if rows else 0.0

    def end_run(self, run: str, mode: str, summary: dict[str, object]) -> None:
        """Records what a run did and cost."""
        sql = (
            f"INSERT INTO {SCHEMA}.runs VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE "
            "SET ended = excluded.ended, mode = excluded.mode, summary = excluded.summary"
        )
        self._write(sql, (run, time.time(), mode, json.dumps(summary)))

    def searches(self) -> Iterator[StoredSearch]:
        """All searches, in the order of their keys. Raises UserError for a row that is none of ours."""
        with self._link.once() as connection, connection.transaction(), connection.cursor("searches") as cursor:
            cursor.itersize = _BATCH
            for row in cursor.execute(f"SELECT {_COLUMNS} FROM {SCHEMA}.searches ORDER BY key"):
                yield self._read(row)

    def add_all(self, searches: Iterable[StoredSearch]) -> int:
        """Adds the searches that the store does not hold, in one transaction; returns how many."""
        count, rest = 0, iter(searches)
        with self._link.once() as connection, connection.transaction(), connection.cursor() as cursor:
            while batch := [_values(search) for search in itertools.islice(rest, _BATCH)]:
                cursor.executemany(_INSERT + "DO NOTHING", batch)
                count += cursor.rowcount
        return count

    def runs(self) -> list[tuple[str, float, str, str]]:
        """(id, end, mode, summary as JSON) of each run that used the store."""
        return self._rows(f"SELECT id, ended, mode, summary FROM {SCHEMA}.runs ORDER BY ended, id")

    def add_runs(self, runs: Iterable[tuple[str, float, str, str]]) -> None:
        for run in runs:
            self._write(f"INSERT INTO {SCHEMA}.runs VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", run)

    def groups(self) -> list[StoreGroup]:
        rows = self._rows(
            "SELECT engine, tool, count(*), count(*) FILTER (WHERE hits = '[]'), sum(cost), min(created), max(created) "
            f"FROM {SCHEMA}.searches GROUP BY engine, tool ORDER BY engine, tool"
        )
        return [StoreGroup(*row) for row in rows]

    def cost_of_runs(self) -> dict[str, float]:
        return dict(self._rows(f"SELECT run, sum(cost) FROM {SCHEMA}.searches GROUP BY run"))

    def size(self) -> int:
        """Bytes of its tables."""
        sql = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class WHERE relkind = 'r' "
        return int(self._rows(sql + "AND relnamespace = %s::regnamespace", (SCHEMA,))[0][0])

    def delete(self, condition: Condition) -> int:
        """Deletes searches and returns how many went. The server uses the space again."""
        sql = (
            f"DELETE FROM {SCHEMA}.searches WHERE (%(engine)s::text IS NULL OR engine = %(engine)s) "
            "AND (%(before)s::float8 IS NULL OR created < %(before)s) AND (NOT %(empty)s OR hits = '[]')"
        )
        values = {"engine": condition.engine, "before": condition.before, "empty": condition.empty}
        with self._link.once() as connection:
            return int(connection.execute(sql, values).rowcount)

    def close(self) -> None:
        self._closed.set()
        self._link.close()

    def _write(self, sql: str, values: tuple[object, ...]) -> None:
        self._link.work(lambda connection: connection.execute(sql, values))

    def _rows(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        rows: list[Any] = self._link.work(lambda connection: connection.execute(sql, values).fetchall())
        return rows

    def _read(self, row: tuple) -> StoredSearch:
        try:
            search = search_of((*row[:3], row[3].decode(), *row[4:]))
        except UnicodeDecodeError:
            search = None
        if search is None:
            raise UserError(f"{self.name} holds a search that this program did not write. Delete it.")
        return search


def _values(search: StoredSearch) -> tuple[object, ...]:
    row = row_of(search)
    return (*row[:3], search.query.encode(), *row[4:])


def _dollars(amount: float) -> Decimal:
    """The number as it was written: 0.015 and not 0.01499999999999999944."""
    return Decimal(repr(float(amount)))
