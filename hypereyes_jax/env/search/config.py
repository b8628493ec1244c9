"""Which searches are made and how, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from hypereyes_jax.env.actions import TEXT_SEARCH

Transport = Literal["http", "in-process"]
Service = Literal["world", "serve-world", "retriever", "serpapi", "mapping", "object"]
ImageEngine = Literal["google_lens", "google_reverse_image"]


class StoreMode(StrEnum):
    LIVE = "live"  # the store is neither read nor written
    RECORD = "record"  # always asks; a new result replaces the old one
    REPLAY = "replay-strict"  # never asks; a search that was not recorded ends the run
    REPLAY_THEN_LIVE = "replay-then-live"  # asks for what is not recorded, and records it


@dataclass(frozen=True)
class CallPolicy:
    """Defaults are the paper's (64 in flight) and the authors' published client's (three attempts and their waits)."""

    in_flight: int = 64  # this, `rate` and `spending_cap` are of the whole run, whatever its number of processes
    timeout: float = 60.0  # seconds, one attempt
    attempts: int = 3
    backoff: tuple[float, float] = (0.5, 3.0)  # before retry n: uniform(low * n, high * n) seconds
    retry_after_cap: float = 60.0  # seconds; a service may ask for a longer wait than the backoff, up to this
    patience: float = 600.0  # seconds; a service that only ever asks to wait has failed after so long
    rate: float | None = None  # requests a second; None = no limit
    burst: float = 1.0  # seconds' worth of `rate` that may go out at once
    text_price: float = 0.0  # dollars a request
    image_price: float = 0.0
    spending_cap: float | None = None  # dollars; the request that would exceed it is not sent
    breaker_failures: int = 20  # failed requests in a row that open the circuit ...
    breaker_seconds: float = 30.0  # ... for so long

    def price(self, tool: str) -> float:
        return self.text_price if tool == TEXT_SEARCH else self.image_price


@dataclass(frozen=True)
class SearchConfig:
    """Which search service to use, and how. Holds no key: keys are given beside it, so it can be printed and saved."""

    # in process | a server of `hypereyes serve-world` | Search-R1 style | SerpApi | `mapping` below | `backend` below
    service: Service = "world"
    mapping: str = (
        ""  # serper, tavily, brave, or a YAML file that says how a service is asked (docs/search_protocol.md)
    )
    backend: str = ""  # module:object or file.py:object: a SearchBackend of your own, or a class of one
    url: str = ""  # of serve-world or the retriever; of SerpApi only to use another address
    image_engine: ImageEngine = "google_reverse_image"  # SerpApi's; reverse image search is the paper's
    image_url: str = ""  # SerpApi: public address of a tunnel to the local image host
    image_port: int = 0  # SerpApi: port of the local image host; 0 = any
    bucket: str = ""  # SerpApi: host crops in this S3 bucket instead
    bucket_endpoint: str = ""  # of an S3-compatible service; "" = AWS
    bucket_public_url: str = ""  # "" = presigned URLs
    # what is recorded to and replayed from: a file of this machine, or postgresql://user@host/database for several
    store: str | Path | None = None
    mode: StoreMode = StoreMode.REPLAY_THEN_LIVE  # only with a store
    budget: str = ""  # with a store in PostgreSQL: commands that name the same budget share rate and spending cap
    policy: CallPolicy = field(default_factory=CallPolicy)


@dataclass(frozen=True)
class WorldSearch:
    """How the miniature world is searched."""

    transport: Transport = "http"  # over a real HTTP server on loopback, or in this process
    latency: float = 0.0  # seconds that a search takes; real ones take 0.2 to 2
    store: str | Path | None = None  # what is recorded to and replayed from as `mode` says; None = every search is made
    mode: StoreMode = StoreMode.REPLAY_THEN_LIVE


@dataclass(frozen=True)
class SearchKeys:
    serpapi: str = field(default="", repr=False)
    s3_access: str = field(default="", repr=False)
    s3_secret: str = field(default="", repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> SearchKeys:
        """The keys among environment variables; those that are not set are empty."""
        return cls(
            serpapi=environment.get("SERPAPI_API_KEY", ""),
            s3_access=environment.get("AWS_ACCESS_KEY_ID", ""),
            s3_secret=environment.get("AWS_SECRET_ACCESS_KEY", ""),
        )
