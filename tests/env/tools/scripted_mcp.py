"""An MCP server over HTTP in a few lines, which a test can make forget its sessions or answer in any way."""

import contextlib
import itertools
import json

from aiohttp import web

from tests.serving import serving_app

TOOL = {"name": "look", "description": "looks", "inputSchema": {"type": "object", "properties": {}}}
RESULTS = {
    "tools/list": {"tools": [TOOL]},
    "tools/call": {"content": [{"type": "text", "text": "found"}], "isError": False},
    "ping": {},
}


class ScriptedServer:
    """`answer`, if there is one, is awaited with each request and its message, and may give the response."""

    def __init__(self):
        self.sessions: set[str] = set()
        self.calls: list[str] = []
        self.answer = None
        self._numbers = itertools.count(1)

    async def reply(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = await request.json()
        except ValueError:
            return web.Response(status=400)
        method, number = asked.get("method"), asked.get("id")
        self.calls.append(method)
        if self.answer is not None and (answer := await self.answer(request, asked)) is not None:
            return answer
        if method == "initialize":
            session = f"session-{next(self._numbers)}"
            self.sessions.add(session)
            result = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "1"},
            }
            return web.json_response(message(number, result), headers={"Mcp-Session-Id": session})
        if request.headers.get("Mcp-Session-Id") not in self.sessions:
            return web.Response(status=404)
        if number is None:
            return web.Response(status=202)
        if method not in RESULTS:
            refused = {"code": -32601, "message": "no such method"}
            return web.json_response({"jsonrpc": "2.0", "id": number, "error": refused})
        return web.json_response(message(number, RESULTS[method]))

    def serving(self) -> contextlib.AbstractContextManager[str]:
        """The block is given the server's URL without its path, /mcp."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/mcp", self.reply)
        return serving_app(app)


def message(number: object, result: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "result": result}


def event(value: object) -> bytes:
    return b"event: message\ndata: " + json.dumps(value).encode() + b"\n\n"
