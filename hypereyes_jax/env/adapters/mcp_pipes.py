"""An MCP server over the pipes of its process, where each line is answered, also one that holds no message."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer


async def serve_pipes(server: MCPServer) -> None:
    """Serves until the client closes its end.

    The package's own loop drops what it can't read, and a client that sent it waits for ever. JSON-RPC 2.0 has an
    answer: an error with the id of the request, or with null where there is none to be found.
    """
    import anyio
    from mcp.server.stdio import stdio_server
    from mcp.shared.message import SessionMessage
    from mcp_types import JSONRPCError

    lowlevel = server._lowlevel_server
    to_server, messages = anyio.create_memory_object_stream[Any](0)
    async with stdio_server() as (read, write), anyio.create_task_group() as tasks:

        async def forward() -> None:
            async with to_server:
                async for item in read:
                    if isinstance(item, Exception):
                        number, error = _refusal(item)
                        await write.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=number, error=error)))
                    else:
                        await to_server.send(item)

        tasks.start_soon(forward)
        await lowlevel.run(messages, write, lowlevel.create_initialization_options())


def _refusal(problem: Exception) -> tuple[Any, Any]:
    """(id, error) to answer a line with that holds no message."""
    from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData
    from pydantic import ValidationError

    faults = problem.errors(include_url=False) if isinstance(problem, ValidationError) else []
    if not faults or faults[0]["type"] == "json_invalid":
        whole = _lenient(faults[0]["input"] if faults else "")
        if whole is None:
            return None, ErrorData(code=PARSE_ERROR, message="Parse error: a line must hold one message in JSON")
    else:
        # Of each kind of message something is missing in it, so one of the faults names all of it.
        inputs = (each["input"] for each in faults)
        whole = next((each for each in inputs if isinstance(each, dict) and "id" in each), {})
    number = whole.get("id")
    known = isinstance(number, int | str) and not isinstance(number, bool)
    return number if known else None, ErrorData(
        code=INVALID_REQUEST, message="Invalid Request: no JSON-RPC 2.0 message"
    )


def _lenient(text: Any) -> dict[str, Any] | None:
    """The object that a text holds, also with half a surrogate pair, which the package's parser refuses."""
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
