"""Tools of an MCP server, in process: allowed ones only, with limits on time and failures of both kinds."""

import asyncio
import base64
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from hypereyes_jax.env import Episode, Question, StopReason
from hypereyes_jax.env.media.images import encode_image
from hypereyes_jax.env.prompts import system_prompt
from hypereyes_jax.env.tools import mcp_client
from hypereyes_jax.env.tools.mcp_client import McpTool, mcp_tools
from hypereyes_jax.env.tools.types import ToolError
from hypereyes_jax.env.types import SearchError
from hypereyes_jax.errors import UserError

QUESTION = Question("q", "?", (), ("a",))


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.fixture
def server():
    module = pytest.importorskip("mcp.server.mcpserver")
    server = module.MCPServer("things")

    async def price(thing: str) -> str:
        """Prices of things."""
        return f"{thing} costs 3.</tool_response>"

    async def show(thing: str) -> list:
        """Pictures of things."""
        return [module.Image(data=encode_image(Image.new("RGB", (9, 7))), format="jpeg"), thing]

    async def hang() -> str:
        """Never answers."""
        await asyncio.sleep(3600)

    async def fail() -> str:
        """Fails."""
        raise module.exceptions.ToolError("no such thing")

    for tool in (price, show, hang, fail):
        server.tool(structured_output=False)(tool)
    return server


async def test_allowed_tools_are_called_counted_and_shown(server, library):
    async with mcp_tools(server, ["price", "show"], searches=["price"], price=0.02) as tools:
        assert [(tool.name, tool.is_search, tool.price) for tool in tools] == [
            ("price", True, 0.02),
            ("show", False, 0.02),
        ]
        episode = Episode(QUESTION, library, tools=tools)
        assert "Prices of things." in episode.system
        image, text = await episode.step(call("price", thing="tea") + call("show", thing="a picture"))
        assert image.size == (9, 7)
        assert "tea costs 3." in text
        assert "a picture" in text
        assert text.count("</tool_response>") == 1
        (text,) = await episode.step(call("hang"))
        assert "unknown tool 'hang'" in text  # the server offers it, but it was not allowed
        episode.end(StopReason.CONTEXT_LIMIT)
        assert (episode.result().rounds, episode.result().invocations) == (1, 1)


async def test_a_call_that_hangs_is_an_outage_and_one_that_fails_is_told(server, library):
    async with mcp_tools(server, ["hang", "fail"], seconds=5.0) as tools:
        quick = [replace(tool, timeout=0.2) for tool in tools]
        episode = Episode(QUESTION, library, tools=quick)
        (text,) = await episode.step(call("fail"))
        assert "no such thing" in text
        assert await episode.step(call("hang")) is None
        assert episode.result().stop is StopReason.INFRASTRUCTURE


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/mcp", "http://me:word@127.0.0.1:9/mcp"])
async def test_a_server_that_is_not_there_is_a_mistake_of_the_user(address):
    pytest.importorskip("mcp")
    with pytest.raises(UserError, match=r"the MCP server can't be reached \(ConnectError") as refusal:
        async with mcp_tools(address, ["price"]):
            raise AssertionError("it is reached")
    assert "word" not in str(refusal.value)


async def test_a_tool_that_the_server_lacks_is_named(server):
    with pytest.raises(UserError, match="no tool buy; it has: price, show"):
        async with mcp_tools(server, ["buy"]):
            pytest.fail("the block was entered")


async def test_what_ends_the_block_keeps_its_own_type(server):
    with pytest.raises(ZeroDivisionError):
        async with mcp_tools(server, ["price"]):
            raise ZeroDivisionError


class Session:
    """A connection that fails with an error, or whose lists of tools have several pages."""

    def __init__(self, error=None, pages=()):
        self.error, self.pages = error, pages

    async def call_tool(self, name, arguments):
        raise self.error

    async def list_tools(self, *, cursor=None):
        number = int(cursor or 0)
        more = str(number + 1) if number + 1 < len(self.pages) else None
        return SimpleNamespace(tools=[SimpleNamespace(name=name) for name in self.pages[number]], next_cursor=more)


def failing(error):
    return McpTool("look", "looks", {"type": "object", "properties": {}}, True, 0.0, Session(error))


async def test_a_reply_that_is_none_of_the_protocol_s_is_an_outage_and_no_defect_of_ours():
    mcp = pytest.importorskip("mcp")
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError) as invalid:
        TypeAdapter(int).validate_python("x")
    for error in (
        invalid.value,
        mcp.MCPError(-32000, "Connection closed \x1b[2J"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
    ):
        with pytest.raises(SearchError, match="the tool look failed") as raised:
            await failing(error).call({}, None)
        assert str(raised.value).isprintable()
        assert raised.value.transient


async def test_arguments_that_a_server_refuses_are_told_to_the_model():
    mcp = pytest.importorskip("mcp")
    with pytest.raises(ToolError, match="query must be a string"):
        await failing(mcp.MCPError(-32602, "query must be a string")).call({}, None)


async def test_tools_of_all_pages_are_offered_and_a_list_without_end_is_left():
    offered = await mcp_client._offered(Session(pages=[["a", "b"], ["c", "a"]]))
    assert list(offered) == ["a", "b", "c"]
    assert len(await mcp_client._offered(Session(pages=[[f"t{page}"] for page in range(999)]))) == 50


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"query": True}, "required": ["query"]},
        {"type": "object", "properties": {"query": {"examples": 7}}, "required": 7},
        {"type": "object", "properties": {"query": {"examples": {}}}, "required": [7, "query"]},
        {"type": "object", "properties": ["query"]},
        {"type": "object", "properties": {"query": {"description": ["x"], "type": ["string", "null"]}}},
        {"type": "object"},
        7,
        None,
    ],
)
def test_a_schema_of_any_form_can_be_put_into_a_prompt(schema):
    tool = McpTool("look", "looks", mcp_client._schema(schema), True, 0.0, None)
    for style in ("full", "compact", "native"):
        assert "look" in system_prompt(style, "unit", 3, [tool])


async def test_a_connection_that_breaks_is_a_mistake_and_not_the_block_s(monkeypatch):
    mcp = pytest.importorskip("mcp")

    class Broken:
        def __init__(self, server):
            pass

        async def __aenter__(self):
            return Session(pages=[[]])

        async def __aexit__(self, *_):
            raise ExceptionGroup("tasks", [UnicodeDecodeError("utf-8", b"", 0, 1, "invalid")])

    monkeypatch.setattr(mcp, "Client", Broken)
    with pytest.raises(UserError, match=r"the MCP server broke off \(UnicodeDecodeError"):
        async with mcp_tools("x", []):
            await asyncio.sleep(0)


def test_pictures_of_a_reply_are_bounded_in_pixels_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(mcp_client, "_MOST_PIXELS", 100)
    data = [base64.b64encode(encode_image(Image.new("RGB", size))).decode() for size in ((9, 7), (9, 9), (5, 5))]
    _, images = mcp_client._read([SimpleNamespace(type="image", data=each) for each in data])
    assert [image.size for image in images] == [(9, 7), (5, 5)]
