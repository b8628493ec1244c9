"""Settings made into a working search backend: service, manners, store and metrics stacked in the right order."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from hypereyes_jax.env.nature import Nature
from hypereyes_jax.env.search.backends import (
    HttpWorldBackend,
    LocalImageHost,
    RetrieverBackend,
    S3Config,
    S3ImageHost,
    SerpApiBackend,
    SerpApiConfig,
)
from hypereyes_jax.env.search.backends.image_host import ImageHost
from hypereyes_jax.env.search.backends.mapping import MappedBackend, read_mapping
from hypereyes_jax.env.search.budget import Budget, OwnBudget, RunShare, StoreBudget
from hypereyes_jax.env.search.config import SearchConfig, SearchKeys, Service, StoreMode
from hypereyes_jax.env.search.metrics import SearchMetrics
from hypereyes_jax.env.search.own_backend import backend_engine, check_named_backend, own_backend
from hypereyes_jax.env.search.postgres import PostgresStore
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.stores import Store, is_postgres, open_store
from hypereyes_jax.env.search.world_service import OfflineWorld, engine_name, world_service
from hypereyes_jax.env.types import SearchBackend
from hypereyes_jax.env.world import World
from hypereyes_jax.errors import UserError


class Connected(NamedTuple):
    """An open search service, and the metrics of its searches."""

    backend: RecordedBackend
    metrics: SearchMetrics


@contextlib.asynccontextmanager
async def connected(
    config: SearchConfig,
    keys: SearchKeys | None = None,
    share: RunShare = RunShare(),  # noqa: B008 - frozen
    own: SearchBackend | None = None,
    world: OfflineWorld | None = None,
) -> AsyncIterator[Connected]:
    """A backend for the length of the block, on the running event loop; its connections and files are closed after it.

    Identical searches in flight are sent once. A strict replay of an offline world asks nobody: every result comes from
    the store.

    Args:
      share: of a run with several processes. Requests in flight are shared out; rate and spending, too, or counted
        together in a store in PostgreSQL.
      own: a backend that is asked in place of the service that `config` names.
      world: what an offline service searches; default all of the world that it names.

    Raises:
      UserError: a setting or key is missing or is of another service, or the store can't be used.
    """
    check_search(config)
    metrics, policy = SearchMetrics(), share.policy(config.policy)
    async with contextlib.AsyncExitStack() as stack:
        store = _open_store(config)
        if store is not None:
            stack.callback(store.close)
        budget: Budget = OwnBudget(policy, share)
        if isinstance(store, PostgresStore):
            budget = StoreBudget(store, config.budget or share.run or uuid.uuid4().hex, policy)
            stack.callback(budget.close)
        live: ResilientBackend | None = None
        engine: str | None = None
        if config.offline and own is None:
            world = world or (World.load() if config.service == "world" else Nature.load())
            engine = engine_name(world, config.transport)
            if store is None or config.mode is not StoreMode.REPLAY:  # a strict replay asks nobody
                offline = stack.enter_context(world_service(world, config.transport, config.latency))
                live = ResilientBackend(offline, policy, metrics, budget)
        else:
            service = own or _service(config, keys or SearchKeys(), share)
            if config.service == "object" and own is None:
                engine = backend_engine(config.backend, service)
            live = ResilientBackend(service, policy, metrics, budget)
        backend = RecordedBackend(
            live,
            store,
            config.mode if store is not None else StoreMode.LIVE,
            engine=engine,
            prices=(config.policy.text_price, config.policy.image_price),
            metrics=metrics,
        )
        stack.push_async_callback(backend.aclose)
        yield Connected(backend, metrics)


# Settings that only some services read.
_READ_BY: dict[str, tuple[Service, ...]] = {
    "mapping": ("mapping",),
    "backend": ("object",),
    "url": ("serve-world", "retriever", "serpapi"),
    "image_engine": ("serpapi",),
    "image_url": ("serpapi", "mapping"),
    "image_port": ("serpapi", "mapping"),
    "bucket": ("serpapi", "mapping"),
    "bucket_endpoint": ("serpapi", "mapping"),
    "bucket_public_url": ("serpapi", "mapping"),
}


def check_search(config: SearchConfig, default: SearchConfig | None = None) -> None:
    """Raises UserError for a setting that the service does not read, or a backend of the user's own that is none.
    Nothing is opened.

    Args:
      default: of a command whose transport and latency are no choice of the user's; None checks neither.
    """
    for name, services in _READ_BY.items():
        if config.service not in services and getattr(config, name) != getattr(SearchConfig, name):
            raise UserError(
                f"--search.{name.replace('_', '-')} needs --search.service {' or '.join(services)}, but "
                f"the service is {config.service}: change the service, or leave the setting out."
            )
    for name in () if default is None or config.offline else ("transport", "latency"):
        if getattr(config, name) != getattr(default, name):
            raise UserError(
                f"--search.{name} applies to offline worlds only, but the service is {config.service}: leave it out."
            )
    if config.service == "object":
        check_named_backend(config.backend)
    if config.budget and (config.store is None or not is_postgres(config.store)):
        raise UserError("--search.budget needs a store in PostgreSQL: give --search.store postgresql://...")


def _open_store(config: SearchConfig) -> Store | None:
    replay = config.mode is StoreMode.REPLAY
    if replay and (config.store is None or not (is_postgres(config.store) or Path(config.store).is_file())):
        missing = "name it with --search.store" if config.store is None else f"there is no {config.store}"
        raise UserError(f"a strict replay needs the store of a recorded run: {missing}.")
    return None if config.store is None or config.mode is StoreMode.LIVE else open_store(config.store)


def _service(config: SearchConfig, keys: SearchKeys, share: RunShare) -> SearchBackend:
    """A service beyond the package. Raises UserError if a setting or a key is missing."""
    if config.service == "serpapi":
        replaying = config.store is not None and config.mode is StoreMode.REPLAY
        if not keys.serpapi and not replaying:
            raise UserError("SerpApi needs a key: set the environment variable SERPAPI_API_KEY.")
        settings = SerpApiConfig(keys.serpapi, config.image_engine)
        if config.url:
            settings = SerpApiConfig(keys.serpapi, config.image_engine, url=config.url)
        return SerpApiBackend(settings, _image_host(config, keys, share))
    if config.service == "mapping":
        if not config.mapping:
            raise UserError("--search.service mapping needs --search.mapping: serper, tavily, brave or a file.")
        return MappedBackend(read_mapping(config.mapping), _image_host(config, keys, share))
    if config.service == "object":
        return own_backend(config.backend)
    if not config.url:
        raise UserError(f"--search.service {config.service} needs --search.url.")
    return HttpWorldBackend(config.url) if config.service == "serve-world" else RetrieverBackend(config.url)


def _image_host(config: SearchConfig, keys: SearchKeys, share: RunShare) -> ImageHost | None:
    if config.bucket:
        if not (keys.s3_access and keys.s3_secret):
            raise UserError("the bucket needs the environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
        s3 = S3Config(
            config.bucket,
            keys.s3_access,
            keys.s3_secret,
            endpoint=config.bucket_endpoint or None,
            public_url=config.bucket_public_url or None,
        )
        return S3ImageHost(s3)
    if config.image_url:
        # Each process serves the crops that it asks about; a service that is told an address must find them there.
        if share.count > 1 and "{process}" not in config.image_url:
            raise UserError(
                f"{share.count} processes search, and each hosts its own images: write {{process}} in "
                "--search.image-url, which becomes the process's number (0 ...; --search.image-port is the first's and "
                "counts up), or use --search.bucket."
            )
        url = config.image_url.replace("{process}", str(share.index)).rstrip("/")
        return LocalImageHost(port=config.image_port and config.image_port + share.index, public_url=url)
    return None
