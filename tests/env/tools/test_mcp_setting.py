"""Tools of an MCP server that a setting names: a program that is started, called from several event loops."""

import asyncio
import sys

import pytest
from aiohttp import web

from hypereyes_jax.env import Episode, EpisodeConfig, Question
from hypereyes_jax.env.tools.mcp_setting import mcp_setting
from hypereyes_jax.env.types import SearchError
from hypereyes_jax.errors import UserError
from tests.env.tools.scripted_mcp import ScriptedServer

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


def test_a_session_that_the_server_forgot_is_opened_anew(library):
    pytest.importorskip("mcp")
    server = ScriptedServer()
    with server.serving() as url:
        (look,) = mcp_setting(f"mcp:{url}/mcp#look", seconds=60)
        try:
            assert asyncio.run(look.call({}, None)).parts == ("found",)
            server.sessions.clear()

            async def several():
                return await asyncio.gather(*(look.call({}, None) for _ in range(8)))

            assert [reply.parts for reply in asyncio.run(several())] == [("found",)] * 8
            assert server.calls.count("initialize") == 2
        finally:
            look.connection.close()


def test_a_server_that_stays_away_is_an_outage_and_is_used_again_when_it_is_back(library):
    pytest.importorskip("mcp")
    server, away = ScriptedServer(), True

    async def answer(request, asked):
        return web.Response(status=503) if away else None

    with server.serving() as url:
        (look,) = mcp_setting(f"mcp:{url}/mcp#look", seconds=60)
        try:
            server.answer = answer
            with pytest.raises(SearchError) as caught:
                asyncio.run(look.call({}, None))
            assert caught.value.transient
            away = False
            server.sessions.clear()
            assert asyncio.run(look.call({}, None)).parts == ("found",)
        finally:
            look.connection.close()


def test_a_program_that_died_is_started_again(tmp_path):
    pytest.importorskip("mcp.server.mcpserver")
    (tmp_path / "server.py").write_text("import os\n" + SERVER.replace('return "x"', "os._exit(1)"))
    price, secret = mcp_setting(f"mcp:{sys.executable} {tmp_path / 'server.py'}#price,secret")
    try:
        with pytest.raises(SearchError):
            asyncio.run(secret.call({}, None))
        assert asyncio.run(price.call({"thing": "tea"}, None)).parts == ("tea costs 3.",)
    finally:
        price.connection.close()
