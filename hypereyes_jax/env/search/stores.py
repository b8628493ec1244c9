"""What every store of searches can do, and which kind an address names: a file of this machine, or a PostgreSQL
database that several machines share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from hypereyes_jax.env.search.postgres import PostgresStore
from hypereyes_jax.env.search.store import Condition, SearchStore, StoredSearch, StoreGroup
from hypereyes_jax.errors import UserError

# `Path` makes one slash of two.
_POSTGRES = re.compile(r"postgres(?:ql)?:/+")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class Store(Protocol):
    """Searches by their keys. All methods may be called by several threads at once, and raise UserError where the store
    can't be used."""

    name: str  # for messages and records; holds no login
    remote: bool  # whether a call waits for another machine, and so must not be made on an event loop
    connections: int  # calls that are worth making at once

    def get(self, key: bytes) -> StoredSearch | None: ...

    def put(self, search: StoredSearch, *, replace: bool = False) -> StoredSearch:
        """Stores a search and returns what the store now holds: where another process was first, its result stays.

        When it returns, the search outlives a kill of this process and of the store's.
        """
        ...

    def claim(self, key: bytes, token: str) -> bool:
        """Whether the caller is to make a search; false while another process of any machine makes it.

        Args:
          token: the caller's own, for `release`. A claim of a process that died ends by itself.
        """
        ...

    def release(self, token: str) -> None:
        """Ends a claim. Others find the result in the store, or make the search themselves."""
        ...

    def searches(self) -> Iterator[StoredSearch]: ...

    def add_all(self, searches: Iterable[StoredSearch]) -> int:
        """Adds the searches that the store does not hold, all or none; returns how many."""
        ...

    def delete(self, condition: Condition) -> int: ...

    def groups(self) -> list[StoreGroup]: ...

    def size(self) -> int: ...

    def runs(self) -> list[tuple[str, float, str, str]]: ...

    def add_runs(self, runs: Iterable[tuple[str, float, str, str]]) -> None: ...

    def end_run(self, run: str, mode: str, summary: dict[str, object]) -> None: ...

    def cost_of_runs(self) -> dict[str, float]: ...

    def close(self) -> None: ...


def is_postgres(address: str | Path) -> bool:
    """Whether an address names a PostgreSQL database and not a file. Raises UserError for a URL of another kind."""
    if _POSTGRES.match(str(address)):
        return True
    if _URL.match(str(address)):
        raise UserError(
            f"{address} is a URL, where a search store is a file of this machine or a postgresql:// address."
        )
    return False


def open_store(address: str | Path, *, read_only: bool = False) -> Store:
    """The store of an address: a file, or "postgresql://user@host:port/database".

    Args:
      read_only: nothing is written, and what is not there is not made.

    Raises:
      UserError: there is no such store, or it can't be used.
    """
    if is_postgres(address):
        return PostgresStore(_POSTGRES.sub("postgresql://", str(address), count=1), read_only=read_only)
    return SearchStore(address, read_only=read_only)
