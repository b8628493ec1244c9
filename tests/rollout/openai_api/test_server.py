"""The server, asked by the `openai` client and by plain HTTP."""

import asyncio
import contextlib
import json
import re
from pathlib import Path

import aiohttp
import numpy as np
import openai
import pytest

from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.media.images import data_uri
from hypereyes_jax.env.types import FatalSearchError, SearchHit
from hypereyes_jax.rollout import SamplingConfig
from hypereyes_jax.rollout.episodes import GeneratorError
from hypereyes_jax.rollout.openai_api.server import AgentSettings, ChatServer, ServerConfig, running_server
from hypereyes_jax.rollout.scheduler import Scheduler
from hypereyes_jax.rollout.types import TurnEnd
from tests.rollout.openai_api.scripted import ScriptedGenerator
from tests.rollout.paced import picture

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
CONFIG = ServerConfig("tiny", port=0, sampling=SamplingConfig(max_new_tokens=12))
USER = [{"role": "user", "content": "what is it"}]
IMAGE = {"type": "image_url", "image_url": {"url": data_uri(picture(1), "PNG")}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
ANSWER = "<reason>seen</reason><answer>it</answer>"
SEARCH = '<reason>go</reason><tool_call>{"name": "text_search", "arguments": {"input": ["one", "two"]}}</tool_call>'


class Found:
    async def text_search(self, query, k):
        return [SearchHit("Page", f"about {query}", 0.9, "http://example.org")]

    async def image_search(self, image, k):
        return []


class NoCredit(Found):
    async def text_search(self, query, k):
        raise FatalSearchError("the credit is used up", kind="credit")


async def answered(generator, chat, ask, config=CONFIG, agent=None):
    async with running_server(ChatServer(generator, chat, config, agent), config) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=config.api_key or "none", max_retries=0)
        try:
            return await ask(client, url)
        finally:
            await client.close()


def asked(*arguments, **options):
    return asyncio.run(answered(*arguments, **options))


def test_the_openai_client_is_answered_with_an_image_by_the_engine(chat, make_engine):
    ask = {
        "model": "tiny",
        "messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "what"}]}],
        "seed": 5,
        "logprobs": True,
    }

    async def both(client, url):
        whole = await client.chat.completions.create(**ask, n=2)
        stream = await client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
        return whole, [chunk async for chunk in stream]

    async def run():
        async with Scheduler(make_engine()) as scheduler:
            return await answered(scheduler, chat, both)

    whole, chunks = asyncio.run(run())
    first, second = whole.choices
    assert first.message.content != second.message.content  # seeds of their own
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == first.message.content  # the same seed
    tokens = first.logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes).decode(errors="replace") == first.message.content
    assert all(token.logprob < 0 for token in tokens)
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices]
    assert [token for part in parts if part for token in part.content] == tokens
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].usage.completion_tokens - len(tokens) == (first.finish_reason == "stop")  # the token that ends it
    assert whole.usage.completion_tokens >= len(tokens)
    assert {choice.finish_reason for choice in whole.choices} <= {"stop", "length"}


def test_a_tool_round_with_the_openai_client(chat):
    generator = ScriptedGenerator(chat, 'See. <tool_call>{"name": "look", "arguments": {"at": "it"}}</tool_call>')

    async def ask(client, url):
        messages = [{"role": "user", "content": [IMAGE, {"type": "text", "text": "what is it"}]}]
        first = await client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS)
        message = first.choices[0].message
        generator.texts = ("it is found",)
        messages += [
            message.to_dict(),
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "a number"},
        ]
        second = await client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS)
        return first.choices[0], second.choices[0]

    first, second = asked(generator, chat, ask)
    assert first.finish_reason == "tool_calls"
    assert first.message.content == "See."
    assert first.message.tool_calls[0].function.name == "look"
    assert json.loads(first.message.tool_calls[0].function.arguments) == {"at": "it"}
    assert second.message.content == "it is found"
    read = chat.decode(generator.contexts[1].tokens)
    assert "<tool_response>\na number\n</tool_response>" in read
    assert len(generator.contexts[1].images) == 1
    assert generator.open_sessions == 0


def test_the_client_of_the_documentation_is_answered(chat, capsys):
    (code,) = re.findall(r"```\{code-block\} python\n(.*?)```", PAGE.read_text(), re.S)
    generator = ScriptedGenerator(chat, "the left one")

    async def ask(client, url):
        uri = IMAGE["image_url"]["url"]
        filled = code
        for theirs, ours in (
            ("http://127.0.0.1:8000", url),
            ("CHECKPOINT", "tiny"),
            ("data:image/png;base64,...", uri),
        ):
            assert filled.count(theirs) == 1
            filled = filled.replace(theirs, ours)
        await asyncio.to_thread(exec, compile(filled, PAGE.name, "exec"), {})

    asked(generator, chat, ask)
    assert capsys.readouterr().out == "the left one\n"
    assert len(generator.contexts[0].images) == 1


def test_a_streamed_tool_call_comes_as_a_call_and_not_as_text(chat):
    generator = ScriptedGenerator(chat, 'go <tool_call>{"name": "look", "arguments": {}}</tool_call>')

    async def ask(client, url):
        stream = await client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS, stream=True)
        return [chunk.choices[0] async for chunk in stream]

    choices = asked(generator, chat, ask)
    assert "".join(choice.delta.content or "" for choice in choices) == "go "
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert [call.function.name for call in calls] == ["look"]
    assert choices[-1].finish_reason == "tool_calls"


LOOK = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls", "ended"),
    [
        (f"go {LOOK} and {LOOK}\n", "go  and", 2, "tool_calls"),
        (f"{LOOK}<tool_call>not one</tool_call>", "<tool_call>not one</tool_call>", 1, "tool_calls"),
        ("go <tool_call>not one", "go <tool_call>not one", 0, "stop"),
        (f"{LOOK}STOP", None, 1, "tool_calls"),
        (f"go {LOOK[:30]}STOP", f"go {LOOK[:30]}", 0, "stop"),
    ],
)
def test_a_streamed_reply_is_the_whole_one_also_around_calls(chat, text, content, calls, ended):
    async def ask(client, url):
        request = {"model": "tiny", "messages": USER, "tools": TOOLS, "stop": "STOP", "logprobs": True}
        whole = (await client.chat.completions.create(**request)).choices[0]
        stream = await client.chat.completions.create(**request, stream=True)
        return whole, [chunk.choices[0] async for chunk in stream]

    whole, chunks = asked(ScriptedGenerator(chat, text), chat, ask)
    assert (whole.message.content, len(whole.message.tool_calls or ()), whole.finish_reason) == (content, calls, ended)
    assert "".join(chunk.delta.content or "" for chunk in chunks).rstrip() == (content or "")
    assert len([call for chunk in chunks for call in chunk.delta.tool_calls or ()]) == calls
    assert chunks[-1].finish_reason == ended
    assert [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content] == whole.logprobs.content
    assert text.startswith("".join(token.token for token in whole.logprobs.content).removesuffix("S"))


def test_a_call_in_a_reply_that_a_limit_cut_is_there_and_the_cut_is_told(chat):
    async def ask(client, url):
        return (await client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS)).choices[0]

    choice = asked(ScriptedGenerator(chat, f"{LOOK}<tool_call>", end=TurnEnd.LENGTH), chat, ask)
    assert (choice.finish_reason, len(choice.message.tool_calls)) == ("length", 1)


@pytest.mark.parametrize(
    ("failure", "status", "began"),
    [
        (GeneratorError("the engine is down"), 503, True),
        (GeneratorError("the engine is down"), 503, False),
        (None, 400, False),  # it does not fit
    ],
)
def test_a_stream_that_fails_counts_as_failed_and_is_refused_while_there_is_time(chat, failure, status, began):
    end = TurnEnd.CONTEXT if failure is None else TurnEnd.STOP
    generator = ScriptedGenerator(chat, "what is found" if began else "", end=end, failure=failure)

    async def ask(client, url):
        texts, refusal = [], None
        try:
            async for chunk in await client.chat.completions.create(model="tiny", messages=USER, stream=True):
                texts.append(chunk.choices[0].delta.content)
        except openai.APIError as error:
            refusal = error
        async with aiohttp.ClientSession() as http:
            return "".join(texts), refusal, await (await http.get(f"{url}/metrics")).text()

    text, refusal, metrics = asked(generator, chat, ask)
    assert (bool(text), isinstance(refusal, openai.APIStatusError)) == (began, not began)
    assert re.search("engine is down" if failure else "longer than this server's context", str(refusal))
    assert f'hypereyes_requests_total{{status="{status}"}} 1.0' in metrics
    assert 'status="200"' not in metrics


def test_the_agent_streams_its_turns_and_answers_with_its_trajectory(chat):
    generator = ScriptedGenerator(chat, SEARCH, ANSWER)
    agent = AgentSettings(Found(), EpisodeConfig(system="search", text_min_score=0.0))

    async def ask(client, url):
        stream = await client.chat.completions.create(model="tiny", messages=USER, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        whole = await client.chat.completions.create(model="tiny", messages=USER)
        return chunks, whole.choices[0]

    chunks, whole = asked(generator, chat, ask, agent=agent)
    assert "".join(choice.delta.content or "" for choice in chunks) == whole.message.content == "it"
    thought = [choice.delta.reasoning_content for choice in chunks if hasattr(choice.delta, "reasoning_content")]
    assert len(thought) == 2
    assert "about one" in thought[0]
    record = whole.model_extra["hypereyes"]
    assert (record["rounds"], record["invocations"], record["stop"]) == (1, 2, "answered")
    assert [search["query"] for search in record["turns"][0]["searches"]] == ["one", "two"]
    assert chunks[-1].model_extra["hypereyes"]["rounds"] == 1


def test_an_agent_without_credit_says_so(chat):
    agent = AgentSettings(NoCredit(), EpisodeConfig(system="search"))

    async def ask(client, url):
        with pytest.raises(openai.InternalServerError, match="credit is used up"):
            await client.chat.completions.create(model="tiny", messages=USER)
        with pytest.raises(openai.BadRequestError, match="own tools"):
            await client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS)
        for field, value in (("stop", ["."]), ("logprobs", True)):
            with pytest.raises(openai.BadRequestError, match=f"`{field}` is of the bare policy"):
                await client.chat.completions.create(model="tiny", messages=USER, **{field: value})
        async with aiohttp.ClientSession() as http:
            return await (await http.get(f"{url}/metrics")).text()

    metrics = asked(ScriptedGenerator(chat, SEARCH), chat, ask, agent=agent)
    assert 'hypereyes_requests_total{status="503"} 1.0' in metrics  # and not as if the client had left
    assert 'hypereyes_requests_total{status="400"} 3.0' in metrics
    assert 'status="499"' not in metrics


def test_models_health_and_metrics(chat):
    async def ask(client, url):
        models = await client.models.list()
        one = await client.models.retrieve("tiny")
        with pytest.raises(openai.NotFoundError, match="does not exist here"):
            await client.chat.completions.create(model="gpt", messages=USER)
        await client.chat.completions.create(model="tiny", messages=USER)
        async with aiohttp.ClientSession() as http:
            health, metrics = await http.get(f"{url}/health"), await http.get(f"{url}/metrics")
            return [card.id for card in models.data], one.id, health.status, await metrics.text()

    models, one, health, metrics = asked(ScriptedGenerator(chat, "it"), chat, ask)
    assert (models, one, health) == (["tiny"], "tiny", 200)
    assert 'hypereyes_requests_total{status="200"} 1.0' in metrics
    assert 'hypereyes_requests_total{status="404"} 1.0' in metrics
    assert f'hypereyes_tokens_total{{kind="written"}} {len(chat.turn("it"))}.0' in metrics


def test_a_key_guards_all_but_health(chat):
    config = ServerConfig("tiny", port=0, api_key="secret")

    async def ask(client, url):
        await client.chat.completions.create(model="tiny", messages=USER)
        stranger = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="guess", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model="tiny", messages=USER)
        await stranger.close()
        async with aiohttp.ClientSession() as http:
            return [(await http.get(url + path)).status for path in ("/health", "/metrics", "/v1/models", "/nowhere")]

    assert asked(ScriptedGenerator(chat, "it"), chat, ask, config) == [200, 401, 401, 401]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://app.example"}, 200),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_pages_of_strangers_may_not_ask_and_named_ones_get_cors(chat, headers, status, stream):
    config = ServerConfig("tiny", port=0, cors_origins=("http://app.example",))

    async def ask(client, url):
        async with aiohttp.ClientSession() as http:
            body = {"messages": USER, "stream": stream}
            async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
                return reply.status, reply.headers.get("Access-Control-Allow-Origin")

    named = headers.get("Origin") if status == 200 else None
    assert asked(ScriptedGenerator(chat, "it"), chat, ask, config) == (status, named)


def test_faults_have_the_api_s_shape(chat):
    async def ask(client, url):
        replies = []
        async with aiohttp.ClientSession() as http:
            for data in (b"{", b"[]", b'{"messages": []}', json.dumps({"messages": USER, "n": 99}).encode()):
                async with http.post(f"{url}/v1/chat/completions", data=data) as reply:
                    replies.append((reply.status, (await reply.json())["error"]["message"]))
            async with http.get(f"{url}/v2") as reply:
                replies.append((reply.status, (await reply.json())["error"]["code"]))
        return replies

    replies = asked(ScriptedGenerator(chat, "it"), chat, ask)
    assert [status for status, _ in replies] == [400, 400, 400, 400, 404]
    assert "not JSON" in replies[0][1]
    assert replies[-1][1] == "not_found"


def test_a_body_that_is_too_large_is_refused(chat):
    config = ServerConfig("tiny", port=0, max_request_bytes=1000)

    async def ask(client, url):
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 5000}])
        return refused.value.status_code

    assert asked(ScriptedGenerator(chat, "it"), chat, ask, config) == 413


def test_more_requests_than_the_server_takes_are_told_to_come_again(chat):
    config = ServerConfig("tiny", port=0, in_flight=1)

    async def ask(client, url):
        slow = asyncio.create_task(client.chat.completions.create(model="tiny", messages=USER))
        await asyncio.sleep(0.1)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="tiny", messages=USER)
        await slow
        return refused.value.response.headers["Retry-After"]

    assert asked(ScriptedGenerator(chat, "what is it", pause=0.1), chat, ask, config) == "1"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_gives_its_slot_back(chat, stream):
    generator = ScriptedGenerator(chat, "what is found " * 20, pause=0.05)

    async def ask(client, url):
        async with aiohttp.ClientSession() as http:
            body = {"messages": USER, "stream": stream}
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5), http.post(f"{url}/v1/chat/completions", json=body) as reply:
                    await reply.read()
                    pytest.fail("the reply came in time")
        for _ in range(100):
            if not generator.open_sessions:
                return True
            await asyncio.sleep(0.02)
        return False

    assert asked(generator, chat, ask)


def test_an_earlier_conversation_reaches_the_agent_s_question(chat):
    generator = ScriptedGenerator(chat, ANSWER)
    agent = AgentSettings(Found(), EpisodeConfig(system="search"))
    messages = [*USER, {"role": "assistant", "content": "a number"}, {"role": "user", "content": "and found"}]

    async def ask(client, url):
        await client.chat.completions.create(model="tiny", messages=messages)

    asked(generator, chat, ask, agent=agent)
    text = chat.decode(generator.contexts[0].tokens)
    assert "user: what is it\nassistant: a number\n\nNow: and found" in text
    assert np.sum(generator.contexts[0].tokens == chat.stop_ids[0]) == 2  # system, user
