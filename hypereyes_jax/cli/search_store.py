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


@dataclass(frozen=True)
class Export:
    """Write every search as a line of JSON."""

    store: Positional[str]
    out: Positional[Path]


@dataclass(frozen=True)
class Import:
    """Add the searches of an export that the store does not hold yet."""

    store: Positional[str]
    source: Positional[Path]


@dataclass(frozen=True)
class Prune:
    """Delete the searches that meet all the conditions given (at least one)."""

    store: Positional[str]
    engine: str | None = None
    """Of this engine."""
    older_than_days: float | None = None
    empty: bool = False
    """That found nothing."""


@dataclass(frozen=True)
class Merge:
    """Add what other stores hold and this one lacks."""

    store: Positional[str]
    sources: Positional[tuple[str, ...]]


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
    from hypereyes_jax.env.web.logins import without_login
    from hypereyes_jax.runs.outputs import check_outputs

    match config.action:
        case Inspect(store):
            print(json.dumps(tools.inspect_store(store), indent=2))
        case Export(store, out):
            check_outputs([out], [] if is_postgres(store) else [Path(store)])
            print(f"{tools.export_store(store, out)} searches written to {out}")
        case Import(store, source):
            print(f"{tools.import_store(store, source)} searches added to {without_login(store)}")
        case Prune(store, engine, days, empty):
            gone = tools.prune_store(store, engine=engine, older_than_days=days, empty=empty)
            print(f"{gone} searches deleted from {without_login(store)}")
        case Merge(store, sources):
            print(f"{tools.merge_stores(store, list(sources))} searches added to {without_login(store)}")
