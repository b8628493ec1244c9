"""Look into recorded searches, and export, import, prune or merge them. A store is a file, or postgresql://..."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, subcommand


@dataclass(frozen=True)
class Inspect:
    """Counts, cost and age of what a store holds, as JSON."""

    store: Positional[str]
    """The recorded searches: a file, or a postgresql:// address."""


@dataclass(frozen=True)
class Export:
    """Write every search as a line of JSON."""

    store: Positional[str]
    """The recorded searches: a file, or a postgresql:// address."""
    out: Positional[Path]
    """The file of JSON lines to write."""


@dataclass(frozen=True)
class Import:
    """Add the searches of an export that the store does not hold yet."""

    store: Positional[str]
    """The store to add to: a file, or a postgresql:// address."""
    source: Positional[Path]
    """The file of JSON lines to read."""


@dataclass(frozen=True)
class Prune:
    """Delete the searches that meet all the conditions given (at least one)."""

    store: Positional[str]
    """The recorded searches: a file, or a postgresql:// address."""
    engine: str | None = None
    """Delete only searches of this engine."""
    older_than_days: float | None = None
    """Delete only searches that are older than so many days."""
    empty: bool = False
    """Delete only searches that found nothing."""


@dataclass(frozen=True)
class Merge:
    """Add what other stores hold and this one lacks."""

    store: Positional[str]
    """The store to add to: a file, or a postgresql:// address."""
    sources: Positional[tuple[str, ...]]
    """The stores whose searches are added."""


Action = (
    Annotated[Inspect, subcommand("inspect", prefix_name=False)]
    | Annotated[Export, subcommand("export", prefix_name=False)]
    | Annotated[Import, subcommand("import", prefix_name=False)]
    | Annotated[Prune, subcommand("prune", prefix_name=False)]
    | Annotated[Merge, subcommand("merge", prefix_name=False)]
)


@dataclass(frozen=True)
class SearchStoreConfig:
    action: OmitArgPrefixes[Action]


def run(config: SearchStoreConfig) -> None:
    import json

    from hypereyes_jax.env.search import store_tools as tools
    from hypereyes_jax.env.search.stores import is_postgres
    from hypereyes_jax.logins import without_login
    from hypereyes_jax.runs.outputs import check_outputs, refuse_no_lines

    match config.action:
        case Inspect(store):
            print(json.dumps(tools.inspect_store(store), indent=2))
        case Export(store, out):
            check_outputs([out], [] if is_postgres(store) else [Path(store)])
            refuse_no_lines(out, tools.EXPORT_BEGIN, "an export of searches")
            print(f"{tools.export_store(store, out)} searches written to {out}")
        case Import(store, source):
            print(f"{tools.import_store(store, source)} searches added to {without_login(store)}")
        case Prune(store, engine, days, empty):
            count = tools.prune_store(store, engine=engine, older_than_days=days, empty=empty)
            print(f"{count} searches deleted from {without_login(store)}")
        case Merge(store, sources):
            print(f"{tools.merge_stores(store, list(sources))} searches added to {without_login(store)}")
