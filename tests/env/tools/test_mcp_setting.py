"""Tools of an MCP server that a setting names: a program that is started, called from several event loops."""

import asyncio
import sys

import pytest

from hypereyes_jax.env import Episode, EpisodeConfig, Question
from hypereyes_jax.env.tools.mcp_setting import mcp_setting
from hypereyes_jax.errors import UserError

SERVER = """
from mcp.server.mcpserver import MCPServer

server = MCPServer("things")

async def price(thing: str) -> str:
    "Prices of things."
    return f"{thing} costs 3."

async def secret() -> str:
    "Not for models."
    return "x"

for tool in (price, secret):
    server.tool(structured_output=False)(tool)
server.run("stdio")
"""


@pytest.fixture
def address(tmp_path):
    pytest.importorskip("mcp.server.mcpserver")
    (tmp_path / "server.py").write_text(SERVER)
    return f"{sys.executable} {tmp_path / 'server.py'}"


def test_the_tools_named_are_called_in_every_event_loop_and_no_others(address, library):
    rules = EpisodeConfig(tools=(f"mcp:{address}#price=search",))

    async def play():
        episode = Episode(Question("q", "?", (), ("a",)), library, rules)
        assert "Prices of things." in episode.system
        assert "secret" not in episode.system
        await episode.step('<tool_call>{"name": "price", "arguments": {"thing": "tea"}}</tool_call>')
        assert "tea costs 3." in episode.last_turn.observation
        assert episode.last_turn.is_round

    asyncio.run(play())
    asyncio.run(play())


@pytest.mark.parametrize("setting", ["mcp:", "mcp:#x", "mcp:python server.py", "mcp:http://127.0.0.1:1/mcp#"])
def test_what_names_no_tools_is_told(setting):
    with pytest.raises(UserError, match="names no tools"):
        mcp_setting(setting)


def test_a_server_that_lacks_a_tool_is_told(address):
    with pytest.raises(UserError, match="has no tool gone; it has: price, secret"):
        mcp_setting(f"mcp:{address}#gone")
