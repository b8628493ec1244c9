"""An MCP server over pipes that is odd in one way, drawn by a seed: `python -m tests.chaos.odd_mcp_server SEED`."""

import json
import math
import random
import sys
import time

from tests.chaos.damage import VALUES, changed, damaged_bytes, damaged_value, places

SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
RECURSIVE = {
    "type": "object",
    "properties": {"query": {"$ref": "#/$defs/node"}},
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
}
GOOD = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": {"name": "odd", "version": "1"},
    },
    "tools/list": {"tools": [{"name": "look", "description": "looks", "inputSchema": SCHEMA}]},
    "tools/call": {"content": [{"type": "text", "text": "found"}], "isError": False},
}
CONTENTS = [
    [{"type": "text", "text": "x" * 3_000_000}], [{"type": "text", "text": "\x1b[2J\x00\u202e" * 50}],
    [{"type": "image", "data": "!!", "mimeType": "image/png"}], [{"type": "image", "data": "A" * 4_000_000}],
    [{"type": "audio", "data": "", "mimeType": "audio/wav"}], [{"type": "text"}], [{"type": "other"}], [None], [], None,
    [{"type": "resource", "resource": {"uri": "file:///x", "text": "t"}}],
    [{"type": "resource_link", "uri": "a:b", "name": ""}],
    [{"type": "text", "text": "y"}] * 5000, [{"type": "text", "text": "\ud83d"}], [{"type": "text", "text": 7}], "text",
]  # fmt: skip
LONG = {"enum": ["e"] * 99_999}
TOOLS = [
    {"name": "look", "inputSchema": RECURSIVE}, {"name": "look", "inputSchema": {}},
    {"name": "look", "inputSchema": None},
    {"name": "look", "description": "\x1b[2J" * 500, "inputSchema": SCHEMA}, {"name": "look"}, {"inputSchema": SCHEMA},
    {"name": "look", "description": "d" * 2_000_000, "inputSchema": {"type": "object", "properties": {"a": LONG}}},
    {"name": "look", "inputSchema": {"type": "object", "properties": {"query": 7}}}, {"name": 7, "inputSchema": SCHEMA},
    {"name": "look", "inputSchema": {"type": ["object"], "properties": []}}, {"name": "look", "inputSchema": True},
    {"name": "look", "inputSchema": {"type": "object", "properties": {"query": {"default": math.nan}}}},
    {"name": "look", "outputSchema": {"type": "object", "required": ["a"]}, "inputSchema": SCHEMA},
    {"name": "look", "outputSchema": RECURSIVE, "inputSchema": SCHEMA},
    {"name": "look", "outputSchema": {"type": 7}, "inputSchema": SCHEMA}, None, [], 7, "look",
]  # fmt: skip


def deep(levels: int) -> object:
    value: object = {}
    for _ in range(levels):
        value = {"properties": value}
    return value


def answers(draw: random.Random, method: str, number: object) -> list[bytes]:
    """The lines that answer a request in an odd way."""
    result = GOOD[method]
    reply = {"jsonrpc": "2.0", "id": number, "result": result}
    how = draw.randrange(16)
    if how < 4:
        reply = damaged_value(draw, reply)
    elif how == 4:
        return [damaged_bytes(draw, json.dumps(reply).encode())]
    elif how == 5:
        reply = reply | {"id": draw.choice([None, 99, "x", -1, 1.5, [number], str(number), True])}
    elif how == 6:
        reply = {"jsonrpc": "2.0", "id": number, "error": draw.choice([
            {"code": -32601, "message": "no \x1b[31m such method" * 99}, {"code": "x"}, {}, None, "no", 7,
            {"code": 10**30, "message": {"a": 1}}, {"code": -32000, "message": "m" * 1_000_000, "data": deep(400)},
        ])}  # fmt: skip
    elif how in (7, 8) and method == "tools/call":
        reply["result"] = draw.choice([
            result | {"content": draw.choice(CONTENTS)}, result | {"content": draw.choice(CONTENTS), "isError": True},
            result | {"structuredContent": draw.choice(VALUES)}, {"toolResult": 7}, {}, [], None, {"isError": True},
        ])  # fmt: skip
    elif how in (7, 8) and method == "tools/list":
        tools = [
            draw.choice(TOOLS),
            *([{"name": "look", "inputSchema": deep(draw.randint(90, 990))}] * draw.randint(0, 1)),
        ]
        reply["result"] = draw.choice([{"tools": tools}, {"tools": tools * 300}, {"tools": [], "nextCursor": "more"}])
    elif how == 9:
        return [json.dumps(reply).encode()] * 3
    elif how == 10:
        notes = [
            {"jsonrpc": "2.0",
             "method": draw.choice(["notifications/tools/list_changed", "notifications/message", "x"]),
             "params": draw.choice([None, {}, [], {"level": "error", "data": "\x1b[2J"}, 7])},
            {"jsonrpc": "2.0", "id": draw.choice([1, "s", None]),
             "method": draw.choice(["sampling/createMessage", "roots/list", "ping", "elicitation/create", "y"]),
             "params": {}},
        ]  # fmt: skip
        return [json.dumps(draw.choice(notes)).encode() for _ in range(draw.choice([1, 200]))] + [
            json.dumps(reply).encode()
        ]
    elif how == 11:
        sys.exit(draw.choice([0, 1, 9]))
    elif how == 12:
        return []
    elif how == 13:
        return [b"Starting server...", b"", b"\xff\xfe\x00", b"[" * 50_000, json.dumps(reply).encode()]
    elif how == 14:
        return [json.dumps([reply]).encode()]
    else:
        path = draw.choice([each for each in places(reply) if each])
        reply = changed(reply, path, lambda container, key: container.__setitem__(key, deep(draw.randint(2, 990))))
    return [json.dumps(reply if reply is not None else None).encode()]


def main(seed: int) -> None:
    draw = random.Random(seed)
    odd = draw.choice(["initialize", "tools/list", "tools/call", "tools/call", "tools/call"])
    for line in sys.stdin.buffer:
        try:
            asked = json.loads(line)
        except ValueError:
            continue
        method, number = asked.get("method"), asked.get("id")
        if number is None or method not in GOOD:
            if number is not None:
                refused = {"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "no such method"}}
                sys.stdout.buffer.write(json.dumps(refused).encode() + b"\n")
                sys.stdout.buffer.flush()
            continue
        good = [json.dumps({"jsonrpc": "2.0", "id": number, "result": GOOD[method]}).encode()]
        for each in answers(draw, method, number) if method == odd else good:
            sys.stdout.buffer.write(each + b"\n")
        sys.stdout.buffer.flush()
    if draw.random() < 0.1:
        time.sleep(30)  # its pipe is closed, and it stays


if __name__ == "__main__":
    main(int(sys.argv[1]))
