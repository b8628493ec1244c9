"""Connections to a PostgreSQL server that may be restarted at any moment: work is done again when one is lost."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hypereyes_jax.env.search.postgres_schema import prepare
from hypereyes_jax.env.web.untrusted import one_line
from hypereyes_jax.errors import UserError
from hypereyes_jax.logins import without_login

T = TypeVar("T")
CONNECTIONS = 3  # of a process; a server takes 100 in all if it is not told otherwise
# A host that vanished is noticed within a minute, and not after TCP's two hours.
_KEEPALIVE = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
# What a server says when it goes down, comes up, or found two transactions in each other's way (appendix A of its
# manual): the same work can be done again.
_PASSING = ("08", "57P01", "57P02", "57P03", "40001", "40P01", "53300")


class PostgresLink:
    """Up to `CONNECTIONS` connections, opened when they are needed.

    Args:
      address: postgresql://...; its login goes to the server only. A password is best given by PGPASSWORD or
        ~/.pgpass, which the client library reads.
      patience: seconds for which a lost server is called again.

    Raises:
      UserError: the client library is missing, the address is none, the server can't be reached or refuses, or what is
        there is not a store.
    """

    def __init__(self, address: str, *, read_only: bool = False, patience: float = 120.0):
        try:
            import psycopg
        except ImportError as error:
            raise UserError("a store in PostgreSQL needs: pip install 'hypereyes-jax[postgres]'") from error
        self._library: Any = psycopg
        self._address, self.name = address, without_login(address)
        self._read_only, self._patience = read_only, patience
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._idle: list[Any] = []
        self._closed = threading.Event()
        try:
            parts = psycopg.conninfo.conninfo_to_dict(address)
        except psycopg.Error:
            raise UserError(
                f"{self.name} is not an address of a PostgreSQL database. One is postgresql://user@host:5432/database"
            ) from None
        self._secrets = [str(parts[name]) for name in ("password", "user") if parts.get(name)]
        self._options = {name: value for name, value in _KEEPALIVE.items() if name not in parts}
        if "connect_timeout" not in parts:
            self._options["connect_timeout"] = 10
        try:
            with self._connection() as connection:
                prepare(connection, self.name, read_only)
        except psycopg.Error as error:
            raise self._failure(error) from None

    def work(self, act: Callable[[Any], T]) -> T:
        """What `act` returns of a connection.

        It is called again when the connection is lost, perhaps after it was done: doing it twice must be like once.
        """
        lost_at, tries = 0.0, 0
        while True:
            try:
                with self._connection() as connection:
                    return act(connection)
            except self._library.Error as error:
                now = time.monotonic()
                lost_at, tries = lost_at or now, tries + 1
                if not self._passes(error) or now - lost_at > self._patience or self._closed.is_set():
                    raise self._failure(error) from None
            self._closed.wait(random.uniform(0.5, 1.0) * min(0.05 * 2**tries, 2.0))

    @contextlib.contextmanager
    def once(self) -> Iterator[Any]:
        """A connection for work that can't be done again."""
        try:
            with self._connection() as connection:
                yield connection
        except self._library.Error as error:
            raise self._failure(error) from None

    def close(self) -> None:
        self._closed.set()
        while self._idle:
            self._idle.pop().close()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        with self._slots:
            connection = self._idle.pop() if self._idle else self._opened()
            usable = False
            try:
                yield connection
                usable = True
            finally:
                # After an error nothing is known of its state.
                if usable and not connection.closed and not self._closed.is_set():
                    self._idle.append(connection)
                else:
                    connection.close()

    def _opened(self) -> Any:
        connection = self._library.connect(
            self._address, autocommit=True, prepare_threshold=None, application_name="hypereyes", **self._options
        )
        # What is acknowledged is on the server's disk, whatever its default.
        connection.execute("SET synchronous_commit = on")
        if self._read_only:
            connection.execute("SET default_transaction_read_only = on")
        return connection

    def _passes(self, error: Any) -> bool:
        if error.sqlstate is not None:
            return str(error.sqlstate).startswith(_PASSING)
        return isinstance(error, (self._library.OperationalError, self._library.InterfaceError))

    def _failure(self, error: Any) -> UserError:
        message = without_login(str(error))
        for secret in self._secrets:
            message = message.replace(secret, "...") if len(secret) > 3 else message
        return UserError(
            f"can't use the search store {self.name}: {one_line(message, 300)}. Check that its server runs and "
            "accepts the user and password (PGPASSWORD). What was stored is kept: the same command continues."
        )
