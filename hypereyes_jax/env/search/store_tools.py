"""Looking into, exporting, pruning and merging search stores: what the commands do."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypereyes_jax.env.search.store import SearchStore, StoredSearch
from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.env.web.untrusted import parse_json
from hypereyes_jax.errors import UserError


def inspect_store(path: str | Path) -> dict[str, Any]:
    """Counts, cost and age of what a store holds, by engine and tool, and the runs that used it."""
    store = _existing(path)
    groups = store.rows(
        "SELECT engine, tool, count(*), sum(hits = '[]'), sum(cost), min(created), max(created) FROM searches "
        "GROUP BY engine, tool ORDER BY engine, tool"
    )
    names = ("engine", "tool", "searches", "empty", "cost", "oldest", "newest")
    runs = store.rows("SELECT id, ended, mode, summary FROM runs ORDER BY ended")
    spent = dict(store.rows("SELECT run, sum(cost) FROM searches GROUP BY run"))
    store.close()
    return {
        "path": str(path),
        "bytes": Path(path).stat().st_size,
        "groups": [dict(zip(names, row, strict=True)) for row in groups],
        "runs": [
            {"id": i, "ended": e, "mode": m, "recorded_cost": spent.get(i, 0.0)} | json.loads(s) for i, e, m, s in runs
        ],
    }


def export_store(path: str | Path, out: str | Path) -> int:
    """Writes every search as one line of JSON, sorted by key, and returns how many."""
    store = _existing(path)
    count = 0
    with open(out, "w", encoding="utf-8") as file:
        for search in store.searches():
            file.write(json.dumps(asdict(search), ensure_ascii=False) + "\n")
            count += 1
    store.close()
    return count


def import_store(path: str | Path, source: str | Path) -> int:
    """Adds the searches of an export that the store does not hold yet; returns how many. Bad lines raise UserError."""
    store, added = SearchStore(path), 0
    with open(source, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                fields = parse_json(line.decode())
                hits = tuple(SearchHit(**hit) for hit in fields.pop("hits"))
                search = StoredSearch(hits=hits, **fields)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"{source}, line {number}, is not an exported search ({error}). Remove it.") from error
            if store.get(search.key) is None:
                store.put(search)
                added += 1
    store.close()
    return added


def prune_store(
    path: str | Path, *, engine: str | None = None, older_than_days: float | None = None, empty: bool = False
) -> int:
    """Deletes the searches that meet all the conditions given, shrinks the file, and returns how many went.

    At least one condition is needed; `empty` selects searches that found nothing.
    """
    conditions: list[str] = []
    arguments: list[object] = []
    if engine is not None:
        conditions.append("engine = ?")
        arguments.append(engine)
    if older_than_days is not None:
        conditions.append("created < ?")
        arguments.append(time.time() - 86_400 * older_than_days)
    if empty:
        conditions.append("hits = '[]'")
    if not conditions:
        raise UserError("prune needs a condition: an engine, an age or empty results.")
    store = _existing(path)
    gone = store.rows(f"DELETE FROM searches WHERE {' AND '.join(conditions)} RETURNING 1", tuple(arguments))
    store.rows("VACUUM")
    store.close()
    return len(gone)


def merge_stores(path: str | Path, sources: list[str | Path]) -> int:
    """Adds what other stores hold and this one lacks; returns how many searches came in. Sources are not changed."""
    for source in sources:
        _existing(source).close()  # a clear error before anything is written
    store = SearchStore(path)
    before = store.rows("SELECT count(*) FROM searches")[0][0]
    for source in sources:
        store.rows("ATTACH ? AS other", (str(source),))
        store.rows("INSERT OR IGNORE INTO searches SELECT * FROM other.searches")
        store.rows("INSERT OR IGNORE INTO runs SELECT * FROM other.runs")
        store.rows("DETACH other")
    after: int = store.rows("SELECT count(*) FROM searches")[0][0]
    store.close()
    return after - before


def _existing(path: str | Path) -> SearchStore:
    if not Path(path).is_file():
        raise UserError(f"there is no search store {path}.")
    return SearchStore(path)
