"""Our tools seen from an MCP client, from TRL and from verifiers."""

import asyncio
import contextlib
import socket

import pytest
from PIL import Image
from transformers.utils import get_json_schema

from hypereyes_jax.env import (
    Episode,
    EpisodeConfig,
    ExactJudge,
    ImageSearch,
    Question,
    StopReason,
    tool_call,
)
from hypereyes_jax.env.adapters import mcp_server as mcp_module
from hypereyes_jax.env.adapters.mcp_server import mcp_server
from hypereyes_jax.env.adapters.trl import environment_factory
from hypereyes_jax.env.adapters.verifiers import converse, environment
from hypereyes_jax.env.media.images import ImageError, data_uri, encode_image
from tests.env.adapters.scenes import FLAGS, Down

HALVES = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]


@pytest.fixture
def client():
    return pytest.importorskip("mcp").Client


def texts(result):
    return [part.text for part in result.content if part.type == "text"]


async def test_an_mcp_client_sees_and_calls_both_tools(client, library):
    async with client(mcp_server(library, {"img_0": FLAGS})) as session:
        tools = {tool.name: tool.input_schema for tool in (await session.list_tools()).tools}
        assert set(tools) == {"text_search", "image_search"}
        assert tools["image_search"]["required"] == ["image"]
        result = await session.call_tool("text_search", {"input": ["Chad", "nothing"]})
        assert not result.is_error
        assert "[Chad]\n1. (0.93) Chad: Capital" in texts(result)[0]
        assert "[nothing]\nno relevant information" in texts(result)[0]
        result = await session.call_tool("image_search", {"image": "img_0", "area": HALVES})
        assert [part.type for part in result.content] == ["image", "image", "text"]
        assert result.content[0].mime_type == "image/jpeg"
        assert "Chad" in texts(result)[0]
        assert "Togo" in texts(result)[0]


async def test_an_mcp_client_can_send_an_image_and_cut_a_crop_again(client, library):
    async with client(mcp_server(library)) as session:
        result = await session.call_tool("image_search", {"image": data_uri(FLAGS, "PNG"), "area": HALVES[1:]})
        crop_id = texts(result)[0].split("[")[1].split("]")[0]
        again = await session.call_tool("image_search", {"image": crop_id, "area": [[0, 0, 0.5, 0.5]]})
        assert "Togo" in texts(again)[0]


async def test_mcp_errors_are_marked(client, library):
    async with client(mcp_server(Down())) as session:
        assert (await session.call_tool("text_search", {"input": ["x"]})).is_error
    async with client(mcp_server(library)) as session:
        assert (await session.call_tool("text_search", {"input": [" "]})).is_error
        assert (await session.call_tool("image_search", {"image": "data:image/png;base64,xx"})).is_error
        unknown = await session.call_tool("image_search", {"image": "img_9"})
        assert "there are no images" in texts(unknown)[0]


def test_trl_can_make_schemas_of_the_tools(library):
    environment = environment_factory(library)()
    for tool in (environment.text_search, environment.image_search):
        schema = get_json_schema(tool)["function"]
        assert schema["description"]
        assert all(field["description"] for field in schema["parameters"]["properties"].values())


async def test_a_trl_rollout(library):
    environment = environment_factory(library, EpisodeConfig(box_units="permille"))()
    assert environment.reset(images=[FLAGS], prompt="?") is None
    blocks = await environment.image_search("img_0", [[0, 0, 500, 1000], [500, 0, 1000, 1000]])
    assert [block["type"] for block in blocks] == ["image", "image", "text"]
    assert "[img_2]\n1. (0.70) Togo" in blocks[-1]["text"]
    blocks = await environment.text_search(["Chad", "Niger"])
    assert "tool_response" not in blocks[-1]["text"]
    assert (environment.calls, environment.invocations, environment.outage) == (2, 4, "")
    blocks = await environment.text_search([])
    assert "no valid query" in blocks[-1]["text"]
    environment.reset(image=FLAGS)
    assert (environment.calls, environment.invocations) == (0, 0)
    assert len(await environment.image_search("img_0")) == 1


async def test_a_trl_rollout_knows_of_an_outage():
    environment = environment_factory(Down())()
    environment.reset()
    await environment.text_search(["x"])
    assert environment.outage


async def test_the_mcp_server_over_http(client, library):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = asyncio.create_task(mcp_server(library, {"img_0": FLAGS}).run_streamable_http_async(port=port))
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        async with client(f"http://127.0.0.1:{port}/mcp") as session:
            result = await session.call_tool("image_search", {"image": "img_0", "area": HALVES})
            assert [part.type for part in result.content] == ["image", "image", "text"]
    finally:
        server.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await server


class Segment:
    def __init__(self, reply=None):
        self.last_reply, self.terminated = reply or "", reply is None


class Interaction:
    """What the adapter uses of verifiers' own; replies in order, None = the run was ended."""

    def __init__(self, *replies):
        self.replies, self.messages = list(replies), []

    async def turn(self, messages):
        self.messages.extend(messages)
        return Segment(self.replies.pop(0))


QUESTION = Question("q", "Which?", (FLAGS,), ("Chad",))


async def test_a_verifiers_interaction_plays_an_episode(library):
    call = tool_call(ImageSearch("img_0", ((0, 0, 0.5, 1), (0.5, 0, 1, 1))))
    interaction = Interaction(call, "<answer>Chad</answer>")
    result = await converse(interaction, Episode(QUESTION, library))
    assert (result.answer, result.rounds, result.invocations) == ("Chad", 1, 2)
    kinds = [[part["type"] for part in message["content"]] for message in interaction.messages]
    assert kinds == [["image_url", "text"], ["image_url", "image_url", "text"]]


async def test_a_verifiers_run_that_is_ended_from_outside_is_truncated(library):
    result = await converse(Interaction(None), Episode(QUESTION, library))
    assert result.stop is StopReason.TRUNCATED


@pytest.mark.oracle
def test_verifiers_loads_the_environment(library):
    vf = pytest.importorskip("verifiers.v1")
    taskset, env = environment([QUESTION], library, ExactJudge())
    assert issubclass(taskset, vf.Taskset)
    assert issubclass(env, vf.Env)
    (task,) = taskset(vf.TasksetConfig(id="x"))
    assert task.data.question_id == "q"
    assert "image_search" in task.data.system_prompt


@pytest.mark.parametrize("kind", ["dict", "bytes", "path", "dict of a path", "one image"])
async def test_a_trl_row_holds_images_in_every_form(library, tmp_path, kind):
    data = encode_image(FLAGS, "PNG")
    (tmp_path / "flags.png").write_bytes(data)
    first = {
        "dict": {"bytes": data, "path": None},
        "bytes": data,
        "path": str(tmp_path / "flags.png"),
        "dict of a path": {"bytes": None, "path": str(tmp_path / "flags.png")},
        "one image": FLAGS,
    }[kind]
    environment = environment_factory(library)()
    environment.reset(images=[first, Image.new("RGB", (8, 8), "green")])
    blocks = await environment.image_search("img_0", HALVES)
    assert [block["image"].size for block in blocks[:-1]] == [(200, 200)] * 2  # img_0 is the first
    assert environment.invocations == 2
    environment.reset(image=first)
    await environment.image_search("img_0")
    assert environment.invocations == 1


@pytest.mark.parametrize("wrong", [{"bytes": b"no image"}, {}, 3, "/no/such/file.png", "a\0b", b"", None])
def test_a_trl_row_with_an_image_that_cannot_be_read_is_refused(library, wrong):
    with pytest.raises(ImageError):
        environment_factory(library)().reset(images=[FLAGS, wrong])


async def test_a_trl_call_that_sends_nothing_is_no_invocation(library):
    environment = environment_factory(library)()
    environment.reset(images=[FLAGS])
    await environment.image_search("img_7")
    await environment.image_search("img_0", [[1, 1, 0, 0]])
    await environment.text_search([" "])
    assert (environment.calls, environment.invocations) == (3, 0)


async def test_mcp_arguments_are_read_as_a_models_are_and_bounded(client, library):
    async with client(mcp_server(library, {"img_0": FLAGS})) as session:
        arguments = {"image": "|".join(["img_0"] * 300), "area": [[0, 0, 1, 1]] * 300}
        result = await session.call_tool("image_search", arguments)
        assert "only the first 32 of 90000 searches were run" in texts(result)[0]
        assert library.calls == 32
        result = await session.call_tool("image_search", {"image": "img_0", "area": [[0, 0, 1]]})
        assert "four numbers" in texts(result)[0]


async def test_images_that_mcp_clients_send_are_kept_up_to_a_bound_of_bytes(client, library, monkeypatch):
    monkeypatch.setattr(mcp_module, "_KEEP_BYTES", 3 * 30 * 30 * 3)
    async with client(mcp_server(library, {"img_0": FLAGS})) as session:
        names = []
        for shade in range(6):
            sent = data_uri(Image.new("RGB", (30, 30), (shade * 40, 0, 0)), "PNG")
            text = texts(await session.call_tool("image_search", {"image": sent}))[0]
            names.append(text.split("[")[1].split("]")[0])
        for name in names[-2:]:
            assert "there is no image" not in texts(await session.call_tool("image_search", {"image": name}))[0]
        assert "there is no image" in texts(await session.call_tool("image_search", {"image": names[0]}))[0]
