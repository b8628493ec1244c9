"""Offer text_search and image_search as an MCP server, to any MCP client. Needs the package extra `mcp`.

    hypereyes mcp --search.service serpapi                       # a client starts it and talks over its pipes
    hypereyes mcp --transport http --port 8080 picture.png       # or over HTTP; the picture is img_0

Keys come from the environment, as for `hypereyes ask`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.search.config import SearchConfig, SearchKeys
from hypereyes_jax.env.web.loopback import is_loopback
from hypereyes_jax.env.web.signals import ends_by_signal
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular

# Rules of an episode that are those of its searches.
_OF_SEARCHES = frozenset(
    "text_request text_min_score text_k image_k width_cap image_searches serial box_units show_crops crop_max_side "
    "content_limit".split()
)


@dataclass(frozen=True)
class McpConfig:
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[IMAGE ...]")] = ()
    """Images that clients can name from the start, as img_0, img_1 and so on; they may also send their own."""
    transport: Literal["stdio", "http"] = "stdio"
    """Whether clients talk over pipes of this process, or over streamable HTTP."""
    host: str = "127.0.0.1"
    """Address to listen on, for HTTP. Only addresses of this machine are allowed, since the server asks for no key."""
    port: int = 8080
    """Port to listen on, for HTTP; 0 takes any free one."""
    search: Annotated[SearchConfig, tyro.conf.EnumChoicesFromValues] = field(default_factory=SearchConfig)
    """The search service behind the tools."""
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    """How many results are shown, and how crops are cut."""


def check(config: McpConfig) -> None:
    """Raises UserError for settings that the server would ignore."""
    default = McpConfig()
    for name in ("host", "port"):
        if config.transport == "stdio" and getattr(config, name) != getattr(default, name):
            raise UserError(f"--{name} is for --transport http: over pipes nothing listens")
    for name in (each.name for each in fields(EpisodeConfig) if each.name not in _OF_SEARCHES):
        if getattr(config.episode, name) != getattr(default.episode, name):
            option = f"--episode.{name.replace('_', '-')}"
            raise UserError(f"{option} has no effect here: the server offers the two searches, and knows no episodes")


def run(config: McpConfig) -> None:
    check(config)
    if config.transport == "http" and not is_loopback(config.host):
        raise UserError(f"--host {config.host} would let strangers spend your searches: use an address of this machine")
    if config.transport == "stdio" and (sys.stdin is None or sys.stdout is None):
        raise UserError(
            "standard input or output is closed, over which an MCP client talks to this command: let the client start "
            "it, or use --transport http"
        )
    with ends_by_signal():
        asyncio.run(_serve(config))


async def _serve(config: McpConfig) -> None:
    from hypereyes_jax.env.adapters.mcp_pipes import serve_pipes
    from hypereyes_jax.env.adapters.mcp_server import mcp_server
    from hypereyes_jax.env.media.images import ImageError, ImageLimits, decode_image
    from hypereyes_jax.env.search.services import check_search, connected

    check_search(config.search, SearchConfig())
    images = {}
    for number, path in enumerate(config.images):
        refuse_irregular(path)
        try:
            images[f"img_{number}"] = decode_image(path.read_bytes(), ImageLimits(trailing_data=True))
        except (OSError, ImageError) as error:
            raise UserError(f"can't open {path}: {error}") from error
    keys = SearchKeys.of(os.environ)
    async with connected(config.search, keys) as (backend, _):
        server = mcp_server(backend, images, config.episode)
        if config.transport == "stdio":
            await serve_pipes(server)
        else:
            await _serve_http(server, config)


async def _serve_http(server: Any, config: McpConfig) -> None:
    """Serves until a signal, which the web server heeds and then raises again. UserError if the port can't be had."""
    import uvicorn

    # a photo as a data URI
    app = server.streamable_http_app(host=config.host, max_request_body_size=64 << 20)
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listening = socket.create_server((config.host.strip("[]"), config.port), family=family)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise UserError(
            f"can't serve on {config.host}:{config.port} ({why}). Choose another --port, or 0 for any free one."
        ) from error
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/mcp"
    print(f"serving the search tools at {address} (Ctrl-C ends)", flush=True)
    with listening:
        await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve([listening])
