"""Which searches are made and how, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from hypereyes_jax.env.actions import TEXT_SEARCH

Transport = Literal["http", "in-process"]
Service = Literal["world", "nature", "serve-world", "retriever", "serpapi", "mapping", "object"]
ImageEngine = Literal["google_lens", "google_reverse_image"]
# Fields of SearchConfig that say where the service is and how patiently it is asked, not what is searched.
SEARCH_ACCESS = (
    "url",
    "image_url",
    "image_port",
    "bucket",
    "bucket_endpoint",
    "bucket_public_url",
    "policy",
    "store",
    "mode",
    "budget",
    "latency",
)


class StoreMode(StrEnum):
    """Whether searches are asked, recorded, or answered from the record."""

    LIVE = "live"  # the store is neither read nor written
    RECORD = "record"  # always asks; a new result replaces the old one
    REPLAY = "replay-strict"  # never asks; a search that was not recorded ends the run
    REPLAY_THEN_LIVE = "replay-then-live"  # asks for what is not recorded, and records it


@dataclass(frozen=True)
class CallPolicy:
    """Defaults are the paper's (64 in flight) and the authors' published client's (three attempts and their waits)."""

    in_flight: int = 64
    """Number of requests that are under way at a time. This limit, the rate and the spending cap hold for the whole
    run, however many processes it has."""
    timeout: float = 60.0
    """Seconds that one attempt may take."""
    attempts: int = 3
    """Number of attempts at one request."""
    backoff: tuple[float, float] = (0.5, 3.0)
    """Seconds to wait before retry n: a number drawn uniformly between n times each of these two."""
    retry_after_cap: float = 60.0
    """Longest wait in seconds that a service may ask for; a longer request is cut to this."""
    patience: float = 600.0
    """Seconds after which a service that only ever asks for a wait counts as failed."""
    rate: float | None = None
    """Largest number of requests a second; none sets no limit."""
    burst: float = 1.0
    """Seconds' worth of `rate` that may go out at once."""
    text_price: float = 0.0
    """Dollars that a text request costs."""
    image_price: float = 0.0
    """Dollars that an image request costs."""
    spending_cap: float | None = None
    """Dollars that may be spent in all; the request that would exceed it is not sent."""
    breaker_failures: int = 20
    """Number of failed requests in a row that open the circuit."""
    breaker_seconds: float = 30.0
    """Seconds for which an open circuit sends nothing."""

    def price(self, tool: str) -> float:
        return self.text_price if tool == TEXT_SEARCH else self.image_price


@dataclass(frozen=True)
class SearchConfig:
    """Which search service to use, and how. Holds no key: keys are given beside it, so it can be printed and saved."""

    service: Service = "world"
    """What is searched: the miniature's world, a second offline domain (nature), a server of `hypereyes serve-world`, a
    Search-R1 style retriever, SerpApi, a service that --search.mapping describes, or the object that --search.backend
    names."""
    transport: Transport = "in-process"
    """How an offline world is searched: in this process, or through a real HTTP server on loopback."""
    latency: float = 0.0
    """Seconds that a search of an offline world takes; real services take 0.2 to 2."""
    mapping: str = ""
    """How the service `mapping` is asked: serper, tavily, brave, a YAML file (docs/search_protocol.md), or
    module:object or file.py:object for such a mapping as a dict."""
    backend: str = ""
    """Your own SearchBackend, or a class of one, as module:object or file.py:object."""
    url: str = ""
    """Address of the server; for SerpApi only if it is not the usual one."""
    image_engine: ImageEngine = "google_reverse_image"
    """Engine that SerpApi searches images with; the paper uses reverse image search."""
    image_url: str = ""
    """Public address of a tunnel to the local image host, for SerpApi. In a run of several processes, {process} in it
    is replaced by the number of the process, from 0."""
    image_port: int = 0
    """Port of the local image host, for SerpApi; further processes take the ports that follow it. 0 takes any free
    port."""
    bucket: str = ""
    """S3 bucket that hosts the crops instead of the local image host, for SerpApi."""
    bucket_endpoint: str = ""
    """Address of an S3-compatible service; without one, AWS is used."""
    bucket_public_url: str = ""
    """Public address of the bucket; without one, URLs are presigned."""
    store: str | Path | None = None
    """What searches are recorded to and replayed from: a file of this machine, or postgresql://user@host/database for
    several."""
    mode: StoreMode = StoreMode.REPLAY_THEN_LIVE
    """How the store is used: live (not at all), record (always ask the service, and store), replay-strict (never ask),
    or replay-then-live (ask for what is not stored)."""
    budget: str = ""
    """Name of a budget, with a store in PostgreSQL: commands that give the same name share one rate and one spending
    cap."""
    policy: CallPolicy = field(default_factory=CallPolicy)

    @property
    def offline(self) -> bool:
        """Whether a world that comes with the package is searched."""
        return self.service in ("world", "nature")


@dataclass(frozen=True)
class SearchKeys:
    """The keys of the search services, apart from the settings, which are printed and saved."""

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
