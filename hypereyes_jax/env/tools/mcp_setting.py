"""Tools of an MCP server by a setting: `mcp:ADDRESS#NAME,NAME=search`. Only the tools that are named may be called.

A connection belongs to the task and the event loop that opened it, and a run has several loops one after another: so it
lives in a thread with a loop of its own, from the first use to the end of the process.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import shlex
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hypereyes_jax.env.tools.mcp_client import McpTool, mcp_tools
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolReply
from hypereyes_jax.errors import UserError

MCP = "mcp:"
_CLOSING_SECONDS = 5.0
T = TypeVar("T")


@dataclass(frozen=True)
class ConnectedTool:
    """A tool of a server whose connection is in another thread; any event loop may call it."""

    tool: McpTool
    connection: _Connection

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def description(self) -> str:
        return self.tool.description

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.tool.parameters

    @property
    def is_search(self) -> bool:
        return self.tool.is_search

    @property
    def price(self) -> float:
        return self.tool.price

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        return await self.connection.run(self.tool.call(arguments, episode))


def mcp_setting(setting: str, seconds: float = 60.0) -> list[ConnectedTool]:
    """The tools that a setting names, connected.

    Args:
      setting: `mcp:ADDRESS#NAME,...`: the address is a URL (http:// or https://) or the command line that starts the
        server; `NAME=search` marks a tool whose calls count as searches.
      seconds: of connecting, and of each call.

    Raises:
      UserError: it is not such a setting, the server can't be reached, or it lacks one of the tools.
    """
    address, hash_mark, listed = setting.removeprefix(MCP).rpartition("#")
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if not hash_mark or not address.strip() or not names:
        raise UserError(f"{setting!r} names no tools of an MCP server: give mcp:ADDRESS#NAME,NAME=search")
    searches = [name.removesuffix("=search") for name in names if name.endswith("=search")]
    allowed = [name.removesuffix("=search") for name in names]
    connection = _Connection(_server(address.strip()), allowed, searches, seconds)
    return [ConnectedTool(tool, connection) for tool in connection.tools]


def _server(address: str) -> Any:
    """What `mcp.Client` connects to."""
    if address.startswith(("http://", "https://")):
        return address
    try:
        from mcp import StdioServerParameters
    except ImportError as error:
        raise UserError("tools of an MCP server need: pip install 'hypereyes-jax[mcp]'") from error
    try:
        command, *arguments = shlex.split(address)
    except ValueError as error:
        raise UserError(f"{address!r} is not a command line: {error}") from error
    return StdioServerParameters(command=command, args=arguments)


class _Connection:
    """An open connection to a server, in a thread of its own. `tools` are those that are allowed."""

    def __init__(self, server: Any, allow: list[str], searches: list[str], seconds: float):
        """Raises UserError as `mcp_tools`."""
        self.tools: list[McpTool] = []
        self._loop, self._ended, opened = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mcp-tools", daemon=True)
        self._thread.start()

        async def hold() -> None:
            async with mcp_tools(server, allow, searches=searches, seconds=seconds) as tools:
                self.tools = list(tools)
                opened.set()
                await self._ended.wait()

        self._connection = asyncio.run_coroutine_threadsafe(hold(), self._loop)
        self._connection.add_done_callback(lambda _: opened.set())
        opened.wait()
        if self._connection.done():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._connection.result()
        atexit.register(self.close)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine beside the connection, for any event loop. Cancelled with whoever waits for it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """Ends the connection and, of a server that was started here, its process."""
        self._loop.call_soon_threadsafe(self._ended.set)
        with contextlib.suppress(TimeoutError):
            self._connection.result(_CLOSING_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSING_SECONDS)
