"""Any MCP server's tools as tools of a model. Needs the package extra `mcp`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from hypereyes_jax.env.media.images import ImageError, read_base64_image
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError, ToolReply
from hypereyes_jax.env.types import SearchError
from hypereyes_jax.env.web.untrusted import encodable, one_line
from hypereyes_jax.errors import UserError

_MOST_CHARACTERS = 20_000  # of what a tool says; what the model is shown of it is bounded again
_MOST_IMAGES = 8


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
        except (OSError, RuntimeError) as error:
            raise SearchError(f"the tool {self.name} failed ({type(error).__name__})", transient=True) from error
        texts, images = _read(result.content)
        if result.is_error:
            raise ToolError(one_line(" ".join(texts), 300) or "the tool failed")
        return ToolReply((*images, *texts))


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

    connected = False
    try:
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(seconds):
                session = await stack.enter_async_context(Client(server))
                offered = {tool.name: tool for tool in (await session.list_tools()).tools}
            connected = True
            if missing := [name for name in (*allow, *searches) if name not in offered]:
                names = ", ".join(one_line(name, 60) for name in list(offered)[:20]) or "none"
                raise UserError(f"the MCP server has no tool {missing[0]}; it has: {names}.")
            yield [
                McpTool(
                    name,
                    one_line(offered[name].description or name, 1000),
                    _schema(offered[name].input_schema),
                    name in searches,
                    price,
                    session,
                    seconds,
                )
                for name in allow
            ]
    except BaseException as failure:
        # The client's task groups wrap whatever ends them, what is raised in the block included.
        first = failure
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        # Each transport has its own kinds of errors, which only its package knows.
        if not connected and isinstance(first, Exception) and not isinstance(first, UserError):
            what = f"{type(first).__name__}: {one_line(str(first), 200)}".removesuffix(": ")
            raise UserError(f"the MCP server can't be reached ({what}).") from first
        if first is failure:
            raise
        raise first from None


def _schema(schema: Any) -> dict[str, Any]:
    """A server's schema, bounded: it goes into the prompt."""
    fits = isinstance(schema, dict) and schema.get("type") == "object" and len(json.dumps(schema)) <= _MOST_CHARACTERS
    return dict(schema) if fits else {"type": "object", "properties": {}}


def _read(content: Sequence[Any]) -> tuple[list[str], list[Image.Image]]:
    texts, images, room = list[str](), list[Image.Image](), _MOST_CHARACTERS
    for part in content:
        if part.type == "text":
            texts.append(encodable(part.text[:room]))
            room -= len(texts[-1])
        elif part.type == "image" and len(images) < _MOST_IMAGES:
            with contextlib.suppress(ImageError):  # what can't be shown is left out; the texts stand
                images.append(read_base64_image(part.data))
    return texts, images
