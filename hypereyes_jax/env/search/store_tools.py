"""Looking into, exporting, pruning and merging search stores: what the commands do."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hypereyes_jax.env.search.store import Condition, StoredSearch
from hypereyes_jax.env.search.stores import Store, is_postgres, open_store
from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.env.web.untrusted import parse_json
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import draft_of, writing

EXPORT_BEGIN = b'{"engine":'  # of the first line of an export
_SQLITE_BEGIN = b"SQLite format 3\0"
Address = str | Path  # of a store: a file, or postgresql://...


def inspect_store(path: Address) -> dict[str, Any]:
    """Counts, cost and age of what a store holds, by engine and tool, and the runs that used it."""
    store = _existing(path)
    try:
        costs = store.cost_of_runs()
        return {
            "path": store.name,
            "bytes": store.size(),
            "groups": [group._asdict() for group in store.groups()],
            "runs": [
                {"id": i, "ended": e, "mode": m, "recorded_cost": costs.get(i, 0.0)} | _summary(s)
                for i, e, m, s in store.runs()
            ],
        }
    finally:
        store.close()


def export_store(path: Address, out: str | Path) -> int:
    """Writes every search as one line of JSON, sorted by key, and returns how many. The file is whole or absent."""
    store, target = _existing(path), Path(out)
    count, draft = 0, draft_of(target)
    try:
        with writing(target):
            with open(draft, "w", encoding="utf-8") as file:
                for search in store.searches():
                    file.write(json.dumps(asdict(search), ensure_ascii=False) + "\n")
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
        store.close()
    return count


def import_store(path: Address, source: str | Path) -> int:
    """Adds the searches of an export that the store does not hold yet; returns how many. Bad lines raise UserError,
    and then nothing is added."""
    store = open_store(path)
    try:
        return store.add_all(_lines(Path(source)))
    finally:
        store.close()


def _lines(source: Path) -> Iterator[StoredSearch]:
    if not source.is_file():
        raise UserError(f"there is no file {source}.")
    with open(source, "rb") as file:
        if file.peek(len(_SQLITE_BEGIN)).startswith(_SQLITE_BEGIN):
            raise UserError(f"{source} is a search store, not an export of one: use `hypereyes search-store merge`.")
        for number, line in enumerate(file, start=1):
            try:
                yield _search(parse_json(line.decode()))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise UserError(
                    f"{source}, line {number}, is not an exported search ({error}). Remove that line."
                ) from error


def _search(fields: Any) -> StoredSearch:
    """An exported line. Raises ValueError, TypeError, KeyError, AttributeError or OverflowError for anything else."""
    hits = tuple(SearchHit(**hit) for hit in fields.pop("hits"))
    search = StoredSearch(hits=hits, **fields)
    texts = (search.engine, search.tool, search.query, search.run)
    numbers = (search.cost, search.seconds, search.created)
    if not all(isinstance(text, str) for text in texts) or type(search.k) is not int or not 0 < search.k < 2**31:
        raise TypeError("engine, tool, query and run must be strings, k a positive integer")
    if not all(type(number) in (int, float) and math.isfinite(number) and number >= 0 for number in numbers):
        raise TypeError("cost, seconds and created must be numbers of at least 0")
    cost, seconds, created = map(float, numbers)
    return replace(search, cost=cost, seconds=seconds, created=created)


def _summary(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def prune_store(
    path: Address, *, engine: str | None = None, older_than_days: float | None = None, empty: bool = False
) -> int:
    """Deletes the searches that meet all the conditions given, and returns how many went.

    At least one condition is needed; `empty` selects searches that found nothing. A file shrinks; PostgreSQL uses the
    space again.
    """
    if older_than_days is not None and not older_than_days >= 0:  # a negative age would select everything
        raise UserError(f"an age is a number of days of at least 0, not {older_than_days:g}.")
    before = None if older_than_days is None else time.time() - 86_400 * older_than_days
    condition = Condition(engine, before, empty)
    if condition == Condition():
        raise UserError("prune needs a condition: an engine, an age or empty results.")
    _existing(path).close()
    store = open_store(path)
    try:
        return store.delete(condition)
    finally:
        store.close()


def merge_stores(path: Address, sources: Sequence[Address]) -> int:
    """Adds what other stores hold and this one lacks; returns how many searches came in. Sources are only read.

    Files and PostgreSQL databases can be brought together in any direction.
    """
    stores = [_existing(source) for source in sources]  # a clear error before anything is written
    store = open_store(path)
    try:
        count = 0
        for source in stores:
            count += store.add_all(source.searches())
            store.add_runs(source.runs())
        return count
    finally:
        for each in (store, *stores):
            each.close()


def _existing(path: Address) -> Store:
    """A store that is there, opened for reading only."""
    if not is_postgres(path) and not Path(path).is_file():
        raise UserError(f"there is no search store {path}.")
    return open_store(path, read_only=True)
