"""`hypereyes mcp`, started by a real MCP client as its own process."""

import io
import json
import re
import signal
import socket
import subprocess
import sys

import pytest

from hypereyes_jax.cli.mcp import McpConfig, check, run
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.errors import UserError

PROGRAM = "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())"


async def test_a_client_starts_it_and_searches_over_its_pipes(tmp_path):
    mcp = pytest.importorskip("mcp")
    from mcp.client.stdio import stdio_client
    from PIL import Image

    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    words = ["-c", PROGRAM, "mcp", str(tmp_path / "red.png"), "--episode.text-min-score", "0"]
    server = mcp.StdioServerParameters(command=sys.executable, args=words, cwd=".")
    async with stdio_client(server) as (read, write), mcp.ClientSession(read, write) as session:
        await session.initialize()
        tools = await session.list_tools()
        assert {tool.name for tool in tools.tools} == {"text_search", "image_search"}
        found = await session.call_tool("text_search", {"input": ["capital of Chad"]})
        assert "Djamena" in found.content[-1].text
        seen = await session.call_tool("image_search", {"image": "img_0", "area": [[0, 0, 0.5, 1]]})
        assert [part.type for part in seen.content] == ["image", "text"]


def test_what_is_no_message_is_answered_as_json_rpc_says(monkeypatch):
    pytest.importorskip("mcp")
    asked = [
        ("{", None, -32700), ("[]", None, -32600), ('{"id": 7}', 7, -32600),
        ('{"id": 8, "method": "\\ud800"}', 8, -32600),
        ('{"jsonrpc": "2.0", "id": "a", "method": "tools/list", "params": []}', "a", -32600),
        ('[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', None, -32600),
    ]  # fmt: skip
    lines, said = "".join(f"{line}\n" for line, _, _ in asked), io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said))
    run(McpConfig())
    replies = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [(reply["id"], reply["error"]["code"]) for reply in replies] == [(number, code) for _, number, code in asked]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_over_http_a_signal_ends_it_cleanly(number):
    pytest.importorskip("mcp")
    words = [sys.executable, "-c", PROGRAM, "mcp", "--transport", "http", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://127\.0\.0\.1:(\d+)/mcp", server.stdout.readline())
        socket.create_connection(("127.0.0.1", int(address[1]))).close()
        server.send_signal(number)
        _, said = server.communicate(timeout=120)
    assert server.returncode == 0
    assert "Traceback" not in said


def test_without_pipes_to_talk_over_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input or output is closed"):
        run(McpConfig())


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (McpConfig(port=9000), "--port is for --transport http"),
        (McpConfig(episode=EpisodeConfig(tools=("zoom",))), "--episode.tools has no effect here"),
        (McpConfig(episode=EpisodeConfig(max_rounds=3)), "--episode.max-rounds has no effect here"),
    ],
)
def test_settings_that_the_server_would_ignore_are_told(config, why):
    with pytest.raises(UserError, match=why):
        run(config)
    check(McpConfig(episode=EpisodeConfig(text_k=5, crop_max_side=500)))


def test_a_port_that_is_taken_is_named():
    pytest.importorskip("mcp")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"can't serve on 127\.0\.0\.1:{port} \(Address already in use\)"):
            run(McpConfig(transport="http", port=port))


def test_only_this_machine_is_listened_on():
    with pytest.raises(UserError, match="strangers"):
        run(McpConfig(transport="http", host="0.0.0.0"))


def test_an_image_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"can't open .*none\.png"):
        run(McpConfig(images=(tmp_path / "none.png",)))
