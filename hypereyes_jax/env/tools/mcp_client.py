"""Any MCP server's tools as tools of a model. Needs the package extra `mcp`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from hypereyes_jax.env.media.images import ImageError, ImageLimits, read_base64_image
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError, ToolReply
from hypereyes_jax.env.types import SearchError
from hypereyes_jax.env.web.untrusted import encodable, one_line
from hypereyes_jax.errors import UserError

_MOST_CHARACTERS = 20_000  # of what a tool says; what the model is shown of it is bounded again
_MOST_IMAGES, _MOST_PIXELS = 8, 50_000_000  # of a reply; decoded, these take 150 MB
_MOST_PAGES, _MOST_TOOLS = 50, 2000  # of a list of tools, which a server may not end
_MOST_REPLY_BYTES = 64 << 20  # over HTTP; the package reads JSON without a bound, and events of a megabyte at most
_CONNECT_SECONDS, _SILENT_SECONDS = 30.0, 300.0  # over HTTP, as the package has them
_INVALID_PARAMS = -32602  # JSON-RPC's code


@dataclass(frozen=True)
class McpTool:
    """One tool of a server that is connected."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    is_search: bool
    price: float
    session: Any = field(repr=False)
    timeout: float = 60.0  # seconds of a call

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        try:
            async with asyncio.timeout(self.timeout):
                result = await self.session.call_tool(self.name, dict(arguments))
        except TimeoutError:
            message = f"the tool {self.name} gave no result within {self.timeout:g} s"
            raise SearchError(message, transient=True, kind="timeout") from None
        except Exception as error:  # of the connection, the protocol or the server, each by types of its own
            raise _failure(self.name, error) from error
        texts, images = _read(result.content)
        if result.is_error:
            raise ToolError(one_line(" ".join(texts), 300) or "the tool failed")
        return ToolReply((*images, *texts))

    async def is_connected(self) -> bool:
        """Whether the server still knows this connection, asked by what each server of tools has to answer."""
        try:
            async with asyncio.timeout(self.timeout):
                await self.session.list_tools(cache_mode="bypass")
        except Exception:  # of whatever type: `call` raises its own, and a new connection tells what is wrong for good
            return False
        return True


@contextlib.asynccontextmanager
async def mcp_tools(
    server: Any, allow: Sequence[str], *, searches: Sequence[str] = (), price: float = 0.0, seconds: float = 60.0
) -> AsyncIterator[list[McpTool]]:
    """The tools of a server for the time of the block: give them to `Episode(tools=...)`.

    Args:
      server: what `mcp.Client` connects to: a URL, the parameters of a program to start, or a server in this process.
      allow: names of the tools that the model may call; whatever else the server offers, now or later, it may not.
      searches: those of them that count as searches.
      price: dollars a call.
      seconds: of a call, and of connecting; what takes longer has failed.

    Raises:
      UserError: the package is missing, the server can't be reached, or it lacks a tool that is allowed.
    """
    try:
        from mcp import Client
    except ImportError as error:
        raise UserError("tools of an MCP server need: pip install 'hypereyes-jax[mcp]'") from error

    logging.getLogger("mcp.client").setLevel(logging.CRITICAL)  # what it logs with a traceback is raised here, too
    connected = False
    of_block: BaseException | None = None
    try:
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(seconds):
                if isinstance(server, str):
                    server = await _over_http(stack, server)
                session = await stack.enter_async_context(Client(server))
                tools_of_server = await _offered(session)
            connected = True
            if missing := [name for name in (*allow, *searches) if name not in tools_of_server]:
                names = ", ".join(one_line(name, 60) for name in list(tools_of_server)[:20]) or "none"
                raise UserError(f"the MCP server has no tool {missing[0]}; it has: {names}.")
            tools = [
                McpTool(
                    name,
                    one_line(tools_of_server[name].description or name, 1000),
                    _schema(tools_of_server[name].input_schema),
                    name in searches,
                    price,
                    session,
                    seconds,
                )
                for name in allow
            ]
            try:
                yield tools
            except BaseException as error:
                of_block = error
                raise
    except BaseException as failure:
        # The client's task groups wrap whatever ends them, what is raised in the block included.
        first = _cause(failure, of_block)
        # Each transport has its own kinds of errors, which only its package knows.
        if first is not of_block and isinstance(first, Exception) and not isinstance(first, UserError):
            what = f"{type(first).__name__}: {one_line(str(first), 200)}".removesuffix(": ")
            happened = "broke off" if connected else "can't be reached"
            raise UserError(f"the MCP server {happened} ({what}).") from first
        if first is failure:
            raise
        raise first from None


async def _over_http(stack: contextlib.AsyncExitStack, url: str) -> Any:
    """The transport of a URL, whose replies are bounded in bytes."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    class Bounded(httpx2.AsyncByteStream):
        """A reply that ends with an error where it is too long."""

        def __init__(self, stream: Any):
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for piece in self._stream:
                size += len(piece)
                if size > _MOST_REPLY_BYTES:
                    raise httpx2.StreamError(f"the reply has more than {_MOST_REPLY_BYTES:,} bytes")
                yield piece

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: Any) -> None:
        response.headers.pop("content-encoding", None)  # none was asked for; unpacked, a reply may have any size
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = Bounded(response.stream)

    http = httpx2.AsyncClient(
        timeout=httpx2.Timeout(_CONNECT_SECONDS, read=_SILENT_SECONDS),
        headers={"Accept-Encoding": "identity"},
        event_hooks={"response": [bound]},
    )
    http = await stack.enter_async_context(http)
    return streamable_http_client(url, http_client=http, max_sse_event_size=_MOST_REPLY_BYTES)


def _cause(failure: BaseException, of_block: BaseException | None) -> BaseException:
    """What a group of errors is about: what the block raised, if it is among them, else the first."""
    while isinstance(failure, BaseExceptionGroup) and failure is not of_block:
        inner: list[BaseException] = list(failure.exceptions)
        places = [place for place, each in enumerate(inner) if each is of_block]
        failure = inner[places[0] if places else 0]
    return failure


async def _offered(session: Any) -> dict[str, Any]:
    """The tools that a server lists, page by page, by their names; of two with one name the first."""
    tools: dict[str, Any] = {}
    cursor = None
    for _ in range(_MOST_PAGES):
        page = await session.list_tools(cursor=cursor)
        for tool in page.tools[:_MOST_TOOLS]:
            tools.setdefault(tool.name, tool)
        cursor = page.next_cursor
        if not cursor or len(tools) > _MOST_TOOLS:
            break
    return tools


def _failure(name: str, error: Exception) -> SearchError | ToolError:
    """What it means that a call ended with an error that no result told: arguments that can't be, or an outage."""
    words = one_line(str(error), 200)
    if getattr(error, "code", None) == _INVALID_PARAMS:
        return ToolError(words or "the server does not take these arguments")
    what = f"{type(error).__name__}: {words}".removesuffix(": ")
    return SearchError(f"the tool {name} failed ({what})", transient=True, kind="mcp")


def _schema(schema: Any) -> dict[str, Any]:
    """A server's schema, bounded and with properties that are objects: it goes into the prompt.

    JSON schema also knows `true` as the schema of a property, which is that of any value.
    """
    empty: dict[str, Any] = {"type": "object", "properties": {}}
    try:
        if not isinstance(schema, dict) or schema.get("type") != "object" or len(json.dumps(schema)) > _MOST_CHARACTERS:
            return empty
    except (RecursionError, TypeError, ValueError):
        return empty
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict):
        return empty
    schemas = {name: value if isinstance(value, dict) else {} for name, value in properties.items()}
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    return {**schema, "properties": schemas, "required": names}


def _read(content: Sequence[Any]) -> tuple[list[str], list[Image.Image]]:
    texts, images, room, pixels = list[str](), list[Image.Image](), _MOST_CHARACTERS, _MOST_PIXELS
    for part in content:
        if part.type == "text":
            texts.append(encodable(part.text[:room]))
            room -= len(texts[-1])
        elif part.type == "image" and len(images) < _MOST_IMAGES:
            with contextlib.suppress(ImageError):  # what can't be shown is left out; the texts stand
                images.append(read_base64_image(part.data, ImageLimits(max_pixels=pixels)))
                pixels -= math.prod(images[-1].size)
    return texts, images
