"""MCP servers over HTTP that are odd in hundreds of ways: each is a result, a typed failure or a mistake of the user's.

`python -m tests.chaos.test_odd_mcp_http 300 SEED` prints the counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from hypereyes_jax.env.tools.mcp_setting import mcp_setting
from hypereyes_jax.env.tools.types import ToolError
from hypereyes_jax.env.types import SearchError
from hypereyes_jax.errors import UserError
from tests.chaos.damage import RAW, damaged_bytes, damaged_value
from tests.chaos.odd_mcp_server import CONTENTS, TOOLS
from tests.env.tools.scripted_mcp import RESULTS, ScriptedServer, event, message

SECONDS = 4.0  # that a client waits
KINDS = [
    "application/json", "text/event-stream", "text/html", "", "application/octet-stream", 'APPLICATION/JSON; x="',
    "text/event-stream; charset=latin-1",
]  # fmt: skip


class OddServer(ScriptedServer):
    """Odd in one way, once or always, at one method."""

    def __init__(self, seed: int):
        super().__init__()
        self._draw = random.Random(seed)
        self._method = self._draw.choice(["initialize", "tools/list", "tools/call", "tools/call", "tools/call"])
        self._how, self._always = self._draw.randrange(14), self._draw.random() < 0.6
        self.answer = self.odd

    async def odd(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse | None:
        if asked.get("method") != self._method or (not self._always and self.calls.count(self._method) > 1):
            return None
        draw, number = self._draw, asked.get("id")
        good = message(number, RESULTS.get(self._method, {}))
        body = json.dumps(good).encode()
        match self._how:
            case 0:
                status = draw.choice([204, 300, 400, 401, 402, 403, 404, 405, 409, 418, 429, 500, 502, 503, 504, 599])
                return web.Response(status=status, body=draw.choice([b"", b"<html>no</html>", body]))
            case 1:
                place = draw.choice(["/mcp", "/mcp/", "http://127.0.0.1:9/mcp", "//evil/mcp", "file:///etc/passwd", ""])
                return web.Response(status=draw.choice([301, 302, 303, 307, 308]), headers={"Location": place})
            case 2:
                kind = draw.choice(KINDS)
                return web.Response(body=draw.choice([body, event(good), b""]), headers={"Content-Type": kind})
            case 3:
                return web.Response(body=damaged_bytes(draw, body), content_type="application/json")
            case 4:
                return web.json_response(damaged_value(draw, good))
            case 5:
                return web.Response(body=draw.choice(RAW), content_type="application/json")
            case 6:
                return await self._stream(request, good)
            case 7:
                self.sessions.clear()
                return web.Response(status=404)
            case 8:
                await asyncio.sleep(2 * SECONDS)
                return web.json_response(good)
            case 9:  # without an end
                response = web.StreamResponse(headers={"Content-Type": draw.choice(KINDS[:2])})
                await response.prepare(request)
                with_end = time.monotonic() + 3 * SECONDS
                with contextlib.suppress(ConnectionError):  # the client left
                    while time.monotonic() < with_end:
                        await response.write(b" " * 2_000_000)
                return response
            case 10:
                packed = gzip.compress(b" " * 200_000_000 + body, 9)
                headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
                return web.Response(body=packed, headers=headers)
            case 11:
                content = draw.choice(CONTENTS)
                return web.json_response(message(number, {"content": content, "isError": draw.random() < 0.3}))
            case 12 if self._method == "tools/list":
                return web.json_response(message(number, {"tools": [draw.choice(TOOLS)]}))
            case _:
                request.transport.close()
                return web.Response()

    async def _stream(self, request: web.Request, good: dict[str, Any]) -> web.StreamResponse:
        draw = self._draw
        whole = event(good)
        pieces = draw.choice([
            [whole[: draw.randrange(len(whole))]], [b": ping\n\n"] * 50 + [whole], [whole, whole],
            [b"id: 1\nretry: 10\ndata: \n\n"], [b"data: " + b"x" * 5_000_000 + b"\n\n", whole], [b"data: {\n\n", whole],
            [b"event: error\ndata: {}\n\n", whole], [event(message(99, {})), whole],
            [b"\xff\xfe\n\n", whole], [b"\r\r", whole],
            [event({"jsonrpc": "2.0", "method": "notifications/x", "params": []}), whole], [],
            [b"retry: 99999999999999999999\n" + whole], [b"id: \x00\n" + whole], [b"id: 7\ndata: \n\n"],
        ])  # fmt: skip
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                await response.write(piece)
        if draw.random() < 0.3 and request.transport is not None:
            request.transport.close()
        return response


def outcome(seed: int) -> str:
    """What became of one server. What is raised here as none of our own errors is a fault."""
    server = OddServer(seed)
    with server.serving() as url:
        try:
            (look,) = mcp_setting(f"mcp:{url}/mcp#look", seconds=SECONDS)
        except UserError as error:
            return "mistake" if _told(str(error)) else f"words: {str(error)[:300]!r}"
        try:
            kinds = []
            for _ in range(2):
                try:
                    reply = asyncio.run(look.call({"query": "x"}, None))
                    kinds.append("result")
                    if sum(len(part) for part in reply.parts if isinstance(part, str)) > 20_100:
                        return "too long"
                except (ToolError, SearchError) as error:
                    if not _told(str(error)):
                        return f"words: {str(error)[:300]!r}"
                    kinds.append("failure")
            return ", ".join(kinds)
        finally:
            look.connection.close()


def _told(words: str) -> bool:
    return bool(words) and len(words) < 600 and words.isprintable()


def run(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Counts of what became of so many servers, and the faults in words."""
    counts, faults = Counter[str](), []
    for number in range(seed, seed + count):
        began = time.monotonic()
        try:
            became = outcome(number)
        except Exception as error:
            became = f"traceback: {type(error).__name__}: {error}"[:300]
        seconds = time.monotonic() - began
        if seconds > 20 * SECONDS + 60:
            became = f"hang: {seconds:.0f} s"
        counts[became.partition(":")[0]] += 1
        if became.partition(":")[0] in ("words", "too long", "traceback", "hang"):
            faults.append(f"{number}: {became}")
            if __name__ == "__main__":
                print(faults[-1], flush=True)
    return counts, faults


def test_a_few_odd_servers_over_http_are_results_failures_or_mistakes(capfd):
    pytest.importorskip("mcp")
    _, faults = run(12, 3)
    assert faults == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.chaos
def test_hundreds_of_odd_servers_over_http_are_results_failures_or_mistakes(capfd):
    pytest.importorskip("mcp")
    counts, faults = run(300, 100)
    assert faults == []
    assert "Traceback" not in capfd.readouterr().err
    print(dict(counts))


if __name__ == "__main__":
    total, wrong = run(int(sys.argv[1]), int(sys.argv[2]))
    print(f"{total.total()} servers: {dict(total)}")
