"""Tools of an MCP server by a setting: `mcp:ADDRESS#NAME,NAME=search`. Only the tools that are named may be called.

A connection belongs to the task and the event loop that opened it, and a run has several loops one after another: so it
lives in a thread with a loop of its own, from the first use to the end of the process. Lost, it is replaced.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.env.tools.mcp_client import McpTool, mcp_tools
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolReply
from hypereyes_jax.env.types import SearchError
from hypereyes_jax.errors import UserError

MCP = "mcp:"
_CLOSING_SECONDS = 5.0
_INVALID_REQUEST = -32600  # JSON-RPC's code, which the package gives a call of a session that the server forgot


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
        return await self.connection.call(self.tool.name, arguments, episode)


def mcp_setting(setting: str, seconds: float = 60.0) -> list[ConnectedTool]:
    """The tools that a setting names, connected.

    Args:
      setting: `mcp:ADDRESS#NAME,...`: the address is a URL (http:// or https://) or the command line that starts the
        server; `NAME=search` marks a tool whose calls count as searches.
      seconds: of connecting, and of each call.

    Raises:
      UserError: it is not such a setting, the server can't be reached, or it lacks one of the tools.
    """
    address, hash_mark, name_list = setting.removeprefix(MCP).rpartition("#")
    names = [name.strip() for name in name_list.split(",") if name.strip()]
    if not hash_mark or not address.strip() or not names:
        raise UserError(f"{setting!r} names no tools of an MCP server: give mcp:ADDRESS#NAME,NAME=search")
    searches = [name.removesuffix("=search") for name in names if name.endswith("=search")]
    tool_names = [name.removesuffix("=search") for name in names]
    connection = _Connection(_server(address.strip()), tool_names, searches, seconds)
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
    """An open connection to a server, in a thread of its own. `tools` are those that are allowed.

    A connection that the server has forgotten (it was started anew, or ended the session) or that broke is replaced.
    """

    def __init__(self, server: Any, allow: list[str], searches: list[str], seconds: float):
        """Raises UserError as `mcp_tools`."""
        self.tools: list[McpTool] = []
        self._connect = lambda: mcp_tools(server, allow, searches=searches, seconds=seconds)
        self._loop, ready = asyncio.new_event_loop(), threading.Event()
        self._ended = self._lost = self._is_open = False
        self._changed, self._renewal = asyncio.Event(), asyncio.Lock()
        self._renewed: asyncio.Event | None = None  # asked for; set when it was done, or could not be
        self._renewals, self._why = 0, ""  # made or tried so far, and why the last one could not be made
        self._thread = threading.Thread(target=self._loop.run_forever, name="mcp-tools", daemon=True)
        self._thread.start()
        self._connection = asyncio.run_coroutine_threadsafe(self._hold(ready.set), self._loop)
        self._connection.add_done_callback(lambda _: ready.set())
        ready.wait()
        if self._connection.done():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._connection.result()
        atexit.register(self.close)

    async def _hold(self, opened: Callable[[], None]) -> None:
        """Keeps a connection open until the end, a new one after one that is lost.

        All of it is done by one task: a connection must be closed by the task that opened it.
        """
        await self._keep(opened)
        while not self._ended:
            await self._changed.wait()
            self._changed.clear()
            if self._ended or self._renewed is None:
                continue
            renewal, self._renewed = self._renewed, None
            try:
                await self._keep(renewal.set)
            except UserError as error:
                self._why = str(error)
                renewal.set()

    async def _keep(self, opened: Callable[[], None]) -> None:
        """Holds one connection until it is lost or the end. Raises UserError if it can't be made."""
        self._lost = self._is_open = was_open = False
        try:
            async with self._connect() as tools:
                self.tools = list(tools)
                self._is_open = was_open = True
                opened()
                while not (self._ended or self._lost):
                    await self._changed.wait()
                    self._changed.clear()
        except UserError:  # of one that is lost, closing tells nothing new
            if not was_open:
                raise
        finally:
            self._is_open = False
        if self._lost:
            self._changed.set()  # for `_hold`, which makes the next one

    async def call(self, name: str, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        """Calls a tool, for any event loop. Cancelled with whoever waits for it."""
        work = self._call(name, arguments, episode)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _call(self, name: str, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        tool = self._tool(name)
        if not self._is_open:
            await self._renew(tool)
            tool = self._tool(name)
        try:
            return await tool.call(arguments, episode)
        except SearchError as failure:
            if failure.kind != "mcp" or await tool.is_connected():
                raise
            await self._renew(tool)
            if getattr(failure.__cause__, "code", None) != _INVALID_REQUEST:
                raise  # the server may have done it
        return await self._tool(name).call(arguments, episode)

    async def _renew(self, tool: McpTool) -> None:
        """Replaces the connection of a tool, unless that was done. Raises SearchError if it can't be."""
        before = self._renewals
        async with self._renewal:
            if self._renewals == before and self._tool(tool.name).session is tool.session:
                self._renewals += 1
                self._why, self._lost = "", True
                renewal = self._renewed = asyncio.Event()
                self._changed.set()
                await renewal.wait()
            if self._why:
                raise SearchError(self._why, transient=True, kind="mcp")

    def _tool(self, name: str) -> McpTool:
        return next(tool for tool in self.tools if tool.name == name)

    def close(self) -> None:
        """Ends the connection and, of a server that was started here, its process."""

        def end() -> None:
            self._ended = True
            self._changed.set()

        self._loop.call_soon_threadsafe(end)
        with contextlib.suppress(TimeoutError):
            self._connection.result(_CLOSING_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSING_SECONDS)
