"""Replies and streams of chat models in every shape in use, over real sockets; statuses that can and can't pass."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import NamedTuple

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hypereyes_jax.env import Question, parse_turn
from hypereyes_jax.env.actions import TextSearch
from hypereyes_jax.env.chat import replies
from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint, ChatError
from hypereyes_jax.env.chat.event_stream import events
from hypereyes_jax.env.chat.replies import StreamReader, read_reply
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.llm_judge import LlmJudge, read_verdict
from hypereyes_jax.env.judging.service import judging
from hypereyes_jax.errors import UserError

QUESTION = Question("q", "Which country?", (), ("Chad",))


class Body(NamedTuple):
    text: str
    kind: str
    status: int = 200


class Endpoint:
    """Replies in order, the last one again and again: (status, headers, JSON), a body, or a list of stream lines."""

    def __init__(self, *replies):
        self.replies, self.bodies = list(replies), []

    async def handle(self, request):
        self.bodies.append(await request.json())
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Body):
            headers = {"Content-Type": reply.kind} if reply.kind else {}
            return web.Response(body=reply.text.encode(), status=reply.status, headers=headers)
        if isinstance(reply, tuple):
            status, headers, data = reply
            return web.json_response(data, status=status, headers=headers)
        if isinstance(reply, dict):
            choice = {"message": reply, "finish_reason": reply.pop("finish_reason", "stop")}
            return web.json_response({"choices": [choice]})
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for line in reply:
            if isinstance(line, float):
                await asyncio.sleep(line)
            else:
                await stream.write(line.encode() + b"\n\n")
        request.transport.close() if reply and reply[-1] == "" else None
        return stream


@pytest.fixture
async def connect():
    opened = []

    async def open_(*replies, **settings):
        endpoint = Endpoint(*replies)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", endpoint.handle)
        server = TestServer(app)
        await server.start_server()
        client = ChatClient(ChatEndpoint(str(server.make_url("/v1")), "m", **settings), backoff=0.001)
        client.server = server
        opened.extend([client.aclose, server.close])
        return endpoint, client

    yield open_
    for close in opened:
        await close()


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        (said([{"type": "text", "text": "correct"}]), True),
        (said([{"type": "text", "text": "in"}, {"type": "text", "text": "correct"}]), False),
        (said("<think>\nIs it the same? It is not spelt alike, but it means the same.\n</think>\n\ncorrect"), True),
        (said("correct? No, it is not.\n</think>incorrect"), False),
        (said("incorrect", reasoning_content="It may be correct."), False),
        (said("It is not spelt alike, but it means the same.\n\n**Correct**"), True),
        (said({"type": "text", "text": "correct"}), True),
        (said([{"type": "thinking", "thinking": "incorrect?"}, {"text": "correct"}]), True),
        (said([{"type": "text", "text": {"value": "incorrect", "annotations": []}}]), False),
        (said('{"correct": false}'), False),
        (said('```json\n{"is_correct": "yes", "why": "incorrect spelling does not count"}\n```'), True),
        (said('{"verdict": "Incorrect."}'), False),
        (said("Correct. It names the same country."), True),
    ],
)
async def test_verdicts_in_every_shape_of_a_reply(connect, message, verdict):
    _, client = await connect(message)
    assert await LlmJudge(client).judge(QUESTION, "Chad") is verdict


def test_a_verdict_that_is_denied_or_weighed_is_none():
    for text in (
        "not correct", "correct or incorrect", "isn't correct", "<think>correct", "maybe", "partially correct",
        "not quite correct", "Correct? No.", "It would be correct", '{"correct": true, "verdict": "incorrect"}',
        '{"why": "correct spelling"}', "far from correct", "The word correct stands here.",
    ):  # fmt: skip
        assert read_verdict(text) is None


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"object": "error", "message": "no such model", "code": 404}, "no such model"),
        ({"choices": [{"error": {"message": "provider down"}, "message": {"content": ""}}]}, "provider down"),
        ({"choices": [], "detail": "no capacity"}, "no capacity"),
    ],
)
async def test_a_failure_under_http_200_is_told_in_the_services_words(connect, reply, words):
    _, client = await connect((200, {}, reply), attempts=1)
    with pytest.raises(ChatError, match=words):
        await LlmJudge(client).verdict(QUESTION, "Chad")


async def test_the_choice_of_index_0_is_read(connect):
    choices = [{"index": 1, "message": said("incorrect")}, {"index": 0, "message": said("correct")}]
    _, client = await connect((200, {}, {"choices": choices}))
    assert await LlmJudge(client).verdict(QUESTION, "Chad") is True


async def test_a_judge_that_thinks_is_given_more_room_once(connect):
    thinking = {"content": None, "reasoning_content": "Let me compare the two names.", "finish_reason": "length"}
    endpoint, client = await connect(dict(thinking), said("correct"))
    judge = LlmJudge(client)
    assert await judge.judge(QUESTION, "Chad") is True
    assert await judge.judge(QUESTION, "Chad") is True
    assert [body["max_tokens"] for body in endpoint.bodies] == [30, 4096, 4096]
    _, client = await connect((200, {}, {"choices": [{"message": thinking, "finish_reason": "length"}]}))
    with pytest.raises(ChatError, match="max_tokens"):
        await LlmJudge(client).verdict(QUESTION, "Chad")


async def test_newer_models_names_and_limits_are_taken_up(connect):
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    cold = "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default is."
    refusals = [(400, {}, {"error": {"message": text}}) for text in (words, cold)]
    endpoint, client = await connect(*refusals, said("correct"))
    assert await LlmJudge(client).judge(QUESTION, "Chad") is True
    assert "max_tokens" not in endpoint.bodies[-1]
    assert endpoint.bodies[-1]["max_completion_tokens"] == 30
    assert "temperature" not in endpoint.bodies[-1]


@pytest.mark.parametrize(
    ("status", "data", "words"),
    [
        (
            404,
            {"error": {"message": "The model `wrong-name` does not exist", "code": 404}},
            "wrong-name` does not exist",
        ),
        (402, {"message": "Not enough credits"}, "Not enough credits"),
        (400, {"detail": "unknown model"}, "unknown model"),
        (429, {"error": {"message": "You exceeded your plan", "code": "insufficient_quota"}}, "You exceeded your plan"),
        (401, {"error": "bad key"}, "bad key"),
        (403, {"error": {"message": "region not allowed"}}, "region not allowed"),
        (400, {"error": {"message": "Your credit balance is too low"}}, "credit balance is too low"),
        (429, {"error": {"code": "Arrearage", "message": "not in good standing"}}, "not in good standing"),
        (410, {"detail": "the model was removed"}, "the model was removed"),
        (405, {"detail": "Method Not Allowed"}, "Method Not Allowed"),
        (400, {"errors": [{"message": "no such model"}]}, "no such model"),
    ],
)
async def test_what_can_never_work_ends_the_run_in_the_services_words(connect, status, data, words):
    endpoint, client = await connect((status, {"Retry-After": "1"}, data))
    with pytest.raises(ChatError, match="HTTP") as raised:
        await LlmJudge(client).judge(QUESTION, "Chad")
    assert raised.value.fatal
    assert words in str(raised.value)
    assert len(endpoint.bodies) == 1


async def test_a_model_that_goes_away_in_the_middle_of_a_run_ends_it(connect):
    _, client = await connect(said("correct"), (404, {}, {"error": {"message": "model unloaded"}}))
    judge = LlmJudge(client)
    assert await judge.judge(QUESTION, "Chad") is True
    with pytest.raises(ChatError, match="model unloaded"):
        await judge.judge(QUESTION, "Chad")


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_service_that_says_when_to_come_back_is_waited_for(connect, form):
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    wait = "0.05" if form == "seconds" else when
    throttled = (429, {"Retry-After": wait}, {"error": "slow down"})
    endpoint, client = await connect(*[throttled] * 5, said("correct"))
    assert await LlmJudge(client).judge(QUESTION, "Chad") is True
    assert len(endpoint.bodies) == 6  # more than the three attempts of a failure without a word


async def test_a_judge_is_asked_a_made_up_question_before_anything_is_spent(connect):
    endpoint, client = await connect(said("correct"))
    url = str(client.server.make_url("/v1"))
    async with judging(JudgeConfig(url, "m")) as judge:
        assert len(endpoint.bodies) == 1
        assert await judge.judge(QUESTION, "Chad") is True
    for wrong in ((404, {}, {"error": {"message": "no such model"}}), said("I would rather not say.")):
        _, client = await connect(wrong)
        with pytest.raises(UserError, match="judge"):
            async with judging(JudgeConfig(str(client.server.make_url("/v1")), "m")):
                pytest.fail("the block was entered")


def event(finish=None, **delta):
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


DONE = "data: [DONE]"
ERROR = "data: " + json.dumps({"error": {"message": "quota exceeded", "type": "insufficient_quota", "code": 429}})
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "text_search", "arguments": '{"input": ["po'}}
REST = {"index": 0, "function": {"arguments": 'pulation of Chad"]}'}}


async def read(client):
    pieces = [piece async for piece in client.stream([("user", ("x",))])]
    return pieces[-1]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([ERROR, DONE], "quota exceeded"),
        (
            [event(content="<reason>I see one flag"), 'data: {"error":{"message":"engine died","code":500}}', DONE],
            "died",
        ),
        ([event(content="<reason>I see one flag of"), ""], "broke off"),
        ([event(content="<reason>I see one flag of")], "broke off"),
        ([event(content="half"), event(finish="error")], "error"),
        ([DONE], "empty"),
        ([], "broke off"),
        (['event: error\ndata: {"object": "error", "message": "too long", "code": 400}'], "too long"),
        (['event: error\ndata: {"type": "overloaded_error", "message": "come back later"}'], "come back later"),
        (['data: {"detail": "the engine died"}'], "the engine died"),
        ([event(content="half"), event(finish="abort")], "ended its reply with an error"),
        ([event(content="half"), event(finish="content_filter")], "content filter"),
        ([event(refusal="I won't "), event(refusal="say."), event(finish="stop")], "refused: I won't say"),
        ([event(content=[{"type": "refusal", "refusal": "I won't."}]), event(finish="stop")], "refused: I won't"),
        (["data: {broken", DONE], "not JSON"),
        (["data: [1, 2]", DONE], "not an object"),
        ([event(content="half"), "data: null"], "not an object"),
        ([event(content="half"), event(finish="insufficient_system_resource")], "insufficient_system_resource"),
        ([event(content="half"), event(finish="SAFETY")], "content filter"),
        (
            [event(content="a"), 'data: {"choices": [{"error": {"message": "the GPU is lost"}, "delta": {}}]}'],
            "the GPU is lost",
        ),
        ([event(content="x" * (6 << 20))] * 3 + [DONE], "more than 16,777,216 characters"),
        (
            [event(content="I look.", finish="tool_calls"), DONE],
            "with a tool call \\(tool_calls\\) that it did not send",
        ),
        (
            [event(tool_calls=[{"index": 0, "what": "x"}], finish="tool_calls")],
            "a tool call in a form that is not known",
        ),
        (['data: {"error_code": 17, "error_msg": "daily limit reached"}'], "daily limit reached"),
        (['data: {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}'], "insufficient balance"),
        # what a proxy writes into a stream that has begun
        (
            [event(content="half"), '{"error": {"message": "upstream is gone", "code": 502}}'],
            "upstream is gone",
        ),
        ([event(content="half"), '{\n "error": {\n  "message": "in lines"\n }\n}', DONE], "in lines"),
        ([event(content="half"), '[{"error": {"message": "in a list"}}]'], "in a list"),
        ([event(content="half"), '{"detail": "without an end of its line"}', ""], "without an end of its line"),
        ([event(content="half"), "upstream connect error"], "broke off its stream: upstream connect error"),
        ([event(content="half"), "<html>502</html>"], "broke off its stream$"),
    ],
)
async def test_absence_of_data_is_never_an_empty_answer(connect, lines, words):
    _, client = await connect(lines)
    with pytest.raises(ChatError, match=words):
        await read(client)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([event(finish="stop", content=[{"type": "text", "text": "<answer>blue</answer>"}])], "<answer>blue</answer>"),
        ([event(content="a"), event(content="b"), event(finish="stop"), DONE], "ab"),
        ([": ping", event(content="a"), DONE], "a"),
        (["data: ", "data:\ndata:", event(content="a"), "data:", DONE], "a"),
        (["\ufeff" + event(content="a"), event(content="b"), DONE], "ab"),
        (
            [event(content="ab"), 'data: {"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]}', DONE],
            "ab",
        ),
        ([event(content=None, role="assistant"), event(finish="length", content="a")], "a"),
        (['data: {"choices": [{"delta":\ndata: {"content": "two lines"}, "finish_reason": "stop"}]}'], "two lines"),
        ([event(content="a"), event(content="b").removeprefix("data: "), event(finish="stop")], "ab"),
        ([event(content="a"), "words of a proxy", event(content="b", finish="stop")], "ab"),
        (['data: {"choices": [{"text": "of completions", "finish_reason": "stop"}]}'], "of completions"),
    ],
)
async def test_streams_in_every_shape(connect, lines, text):
    _, client = await connect(lines)
    assert (await read(client)).text == text


async def test_a_line_end_cut_in_half_ends_no_event():
    async def chunks():
        for piece in (b'data: {"a":\r', b"\ndata: 1}\r", b"\n\r", b"\ndata: [DONE]\r\n\r\n"):
            yield piece

    assert [value async for value in events(chunks(), "there")] == [{"a": 1}, None]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"message": {"content": None, "refusal": "I won't."}, "finish_reason": "stop"}, "refused: I won't"),
        ({"message": {"content": [{"type": "refusal", "refusal": "I won't."}]}, "finish_reason": "stop"}, "refused"),
        ({"message": {"content": "hal"}, "finish_reason": "abort"}, "error"),
        ({"message": {"content": "hal"}, "finish_reason": "content_filter"}, "content filter"),
    ],
)
async def test_a_whole_reply_that_was_not_written_to_its_end_is_no_reply(connect, choice, words):
    _, client = await connect(*[(200, {}, {"choices": [choice]})] * 3)
    with pytest.raises(ChatError, match=words):
        await client.complete([("user", ("x",))])


async def test_a_call_in_the_older_form_is_read(connect):
    called = {"name": "text_search", "arguments": '{"input": ["population of Chad"]}'}
    _, client = await connect([event(function_call=called), event(finish="function_call"), DONE])
    assert parse_turn((await read(client)).text).action == TextSearch(("population of Chad",))


async def test_a_call_that_the_server_has_parsed_itself_is_made(connect):
    lines = [event(tool_calls=[CALL]), event(tool_calls=[REST]), event(finish="tool_calls"), DONE]
    _, client = await connect(lines)
    assert parse_turn((await read(client)).text).action == TextSearch(("population of Chad",))
    whole = {"name": "text_search", "arguments": '{"input": ["population of Chad"]}'}
    _, client = await connect(said(None, tool_calls=[{"id": "c", "type": "function", "function": whole}]))
    reply = await client.complete([("user", ("x",))])
    assert parse_turn(reply.text).action == TextSearch(("population of Chad",))


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ('<tool_call>{"name": "text_search", "arguments": {"input": ["population of Chad"]}}</tool_call>', 1),
        ('<tool_call>\n{"arguments": {"input": "population of Chad"}, "name": "text_search"}\n', 1),
        ('<tool_call>{"name": "text_search", "arguments": {"input": ["population of Mali"]}}</tool_call>', 2),
        (  # a draft of it is no call
            '<think><tool_call>{"name": "text_search", "arguments": {"input": ["population of Chad"]}}</tool_call>'
            "</think>",
            1,
        ),
    ],
)
async def test_a_call_in_the_text_that_the_server_has_parsed_besides_is_one_call(connect, text, made):
    lines = [event(content=text), event(tool_calls=[CALL]), event(tool_calls=[REST]), event(finish="tool_calls"), DONE]
    whole = {"name": "text_search", "arguments": '{"input": ["population of Chad"]}'}
    _, client = await connect(said(text, tool_calls=[{"id": "c", "function": whole}], function_call=whole), lines)
    replies = [await client.complete([("user", ("x",))]), await read(client)]
    assert [len(parse_turn(reply.text).calls) for reply in replies] == [made, made]


async def test_a_call_of_another_tool_is_told_from_others_by_its_arguments(connect):
    text = '<tool_call>{"name": "zoom", "arguments": {"area": [1]}}</tool_call>'
    calls = [{"id": str(n), "function": {"name": "zoom", "arguments": f'{{"area": [{n}]}}'}} for n in (1, 2)]
    _, client = await connect(said(text, tool_calls=calls))
    parsed = parse_turn((await client.complete([("user", ("x",))])).text, tools={"zoom": True})
    assert [call.arguments for call in parsed.calls] == [{"area": [1]}, {"area": [2]}]


async def test_the_names_of_a_limit_are_one(connect):
    for name in ("MAX_TOKENS", "max_output_tokens", "model_context_window_exceeded", "max_length"):
        _, client = await connect([event(content="a", finish=name)])
        assert (await read(client)).finish_reason == "length"


def one_call(number, index, query, **more):
    function = {"name": "text_search", "arguments": json.dumps({"input": [query]})}
    return event(tool_calls=[{"id": f"call{number}", "function": function, **more} | index])


@pytest.mark.parametrize(
    "calls",
    [
        [{"index": 0, "id": "c"}, {"index": 0, "name": "text_search", "arguments": '{"input": ["x"]}'}],
        {"id": "c", "function": {"name": "text_search", "arguments": {"input": ["x"]}}},
        [{"type": "tool_use", "id": "c", "name": "text_search", "input": {"input": ["x"]}}],
    ],
)
async def test_a_call_in_the_forms_of_other_services_is_made(connect, calls):
    _, client = await connect(said(None, tool_calls=calls), [event(tool_calls=calls, finish="tool_calls"), DONE])
    for reply in (await client.complete([("user", ("x",))]), await read(client)):
        assert parse_turn(reply.text).action == TextSearch(("x",))


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}])
async def test_calls_under_one_index_are_told_apart_by_their_ids(connect, index):
    _, client = await connect([one_call(1, index, "a"), one_call(2, index, "b"), event(finish="tool_calls"), DONE])
    assert parse_turn((await read(client)).text).calls == (TextSearch(("a",)), TextSearch(("b",)))


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}])
async def test_whole_calls_that_a_server_neither_numbers_nor_names_are_each_a_call(connect, index):
    calls = [
        event(tool_calls=[{"function": {"name": "text_search", "arguments": json.dumps({"input": [query]})}} | index])
        for query in ("a", "b")
    ]
    end = {"function": {"name": "text_search", "arguments": ""}} | index
    _, client = await connect([*calls, event(tool_calls=[end]), event(finish="tool_calls"), DONE])
    assert parse_turn((await read(client)).text).calls == (TextSearch(("a",)), TextSearch(("b",)))


async def test_a_name_that_each_piece_repeats_is_one_name(connect):
    pieces = [
        event(tool_calls=[part | {"function": part["function"] | {"name": "text_search"}}]) for part in (CALL, REST)
    ]
    _, client = await connect([*pieces, event(finish="tool_calls"), DONE])
    assert parse_turn((await read(client)).text).action == TextSearch(("population of Chad",))


async def test_a_slow_stream_may_take_any_time_while_it_makes_progress(connect):
    lines = [line for word in range(8) for line in (0.1, event(content=f"{word} "))]
    _, client = await connect([*lines, event(finish="stop"), DONE], timeout=0.4)
    assert (await read(client)).text == "0 1 2 3 4 5 6 7 "
    _, client = await connect([event(content="a"), 2.0, DONE], timeout=0.2)
    with pytest.raises(ChatError, match="in time"):
        await read(client)


async def test_a_server_that_does_not_stream_is_read_whole(connect):
    _, client = await connect(said("whole"))
    assert (await read(client)).text == "whole"


async def test_an_error_status_of_a_stream_is_told_in_the_services_words(connect):
    _, client = await connect((404, {}, {"error": {"message": "no such model"}}))
    with pytest.raises(ChatError, match="no such model") as raised:
        await read(client)
    assert raised.value.fatal


WHOLE = {"choices": [{"message": {"content": "<answer>blue</answer>"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json", "text/plain", ""])
@pytest.mark.parametrize("indent", [None, 2])
async def test_a_whole_reply_is_read_where_a_stream_was_asked_for(connect, kind, indent):
    _, client = await connect(Body(json.dumps(WHOLE, indent=indent), kind))
    assert (await read(client)).text == "<answer>blue</answer>"


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json", "application/problem+json", "text/html"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "the model is full", "code": 500}}', "failed: the model is full"),
        ('{\n  "error": {\n    "message": "the model is full"\n  }\n}\n', "failed: the model is full"),
        ('[{"error": {"message": "the model is full", "code": 400}}]', "failed: the model is full"),
        ("upstream connect error\n", "sent neither a stream of events nor JSON: upstream connect error"),
        ("<html><title>Log in</title></html>", "neither a stream of events nor JSON: <html><title>Log in"),
        ("event: error\ndata: the model is full\n\n", "an event that is not JSON: the model is full"),
        ('data: {"error": {"message": "no such key: s3cr3t-k3y"}}\n\n', r"failed: no such key: \*\*\*"),
    ],
)
async def test_what_comes_in_place_of_a_stream_is_told_in_the_servers_words(connect, kind, body, words):
    _, client = await connect(Body(body, kind), api_key="s3cr3t-k3y")
    with pytest.raises(ChatError, match=words):
        await read(client)


async def test_a_body_of_many_short_lines_is_read_in_linear_time(connect):
    _, client = await connect(Body("x\n" * 1_000_000, "text/plain"))
    started = time.perf_counter()
    with pytest.raises(ChatError, match="neither a stream of events nor JSON"):
        await read(client)
    assert time.perf_counter() - started < 30


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("upstream connect error", "application/json", "500: upstream connect error"),
        ('data: {"error": {"message": "the model is full"}}\n\n', "text/event-stream", "500: the model is full"),
        ("data: the model is full\n\n", "text/event-stream", "500: the model is full"),
        ("the model is full\n", "", "500: the model is full"),
        ("<html>the model is full</html>", "text/html", "500$"),
    ],
)
async def test_a_failed_reply_that_is_not_json_is_told_in_its_words(connect, body, kind, words):
    _, client = await connect(Body(body, kind, 500), attempts=1)
    with pytest.raises(ChatError, match=words):
        await client.complete([("user", ["?"])])
    _, client = await connect(Body(body, kind), attempts=1)
    with pytest.raises(ChatError, match=words.replace("500", "sent no valid JSON")):
        await client.complete([("user", ["?"])])


@pytest.mark.parametrize("content", [5, True, None])
async def test_a_message_whose_content_is_not_text_is_no_reply(connect, content):
    _, client = await connect(Body(json.dumps({"choices": [{"message": {"content": content}}]}), "application/json"))
    with pytest.raises(ChatError, match="sent a reply without a message"):
        await client.complete([("user", ["?"])])


async def read_stream(data, size):
    """(events, the error that ended them) of a stream that comes in pieces of a size."""

    async def pieces():
        for start in range(0, len(data), size):
            yield data[start : start + size]

    found = []
    try:
        async for event in events(pieces(), "host"):
            found.append(event)
    except ChatError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"data: [1\n" + b"data: ,1\n" * 50_000, 65_536),  # an event that every line might complete
        (b"data: x" + b"x" * 2_000_000, 20),  # a line that comes in many small pieces
    ],
)
async def test_an_event_is_read_in_time_linear_in_its_length(data, size):
    began = time.monotonic()
    found, _ = await read_stream(data, size)
    assert time.monotonic() - began < 10  # minutes, were each line or piece to be read with all before it
    assert found == []


@pytest.mark.parametrize("lines", [2, 64, 65, 500])
async def test_an_event_of_many_lines_is_read_at_its_empty_line(lines):
    text = json.dumps(list(range(lines - 1)), indent=0).rstrip("]").rstrip() + "]"
    stream = "".join(f"data: {line}\n" for line in text.splitlines()) + "\ndata: [DONE]\n\n"
    assert (await read_stream(stream.encode(), 7))[0] == [list(range(lines - 1)), None]


@pytest.mark.parametrize(
    "delta",
    [
        {"refusal": "no" * 50},
        {"content": "no" * 50},
        {"reasoning": "no" * 50},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "no" * 50}}]},
        {"tool_calls": [{"index": 0, "id": "{}", "function": {}}]},
        {"tool_calls": [{"index": 0, "function": {"name": "{}"}}]},
    ],
)
def test_all_that_a_stream_makes_us_keep_is_bounded(delta, monkeypatch):
    monkeypatch.setattr(replies, "_REPLY_CHARACTERS", 10_000)
    reader = StreamReader("host")
    ended = ""
    for number in range(300):
        try:
            reader.feed(json.loads(json.dumps({"choices": [{"delta": delta}]}).replace("{}", str(number))))
        except ChatError as error:
            ended = str(error)
    assert "more than 10,000 characters" in ended or len(reader.calls()) < 2_000


@pytest.mark.parametrize("count", [10**400, -(10**400), 2**60, -1, True, 1.5, "7", None, [7]])
def test_a_count_of_tokens_that_no_reply_can_have_is_none(count):
    usage = {"prompt_tokens": count, "completion_tokens": 7}
    reply = read_reply({"choices": [{"message": {"content": "x"}}], "usage": usage}, "host")
    assert (reply.prompt_tokens * 0.1, reply.completion_tokens) == (0.0, 7)


@pytest.mark.parametrize("depth", range(900, 1000, 3))
def test_calls_that_nest_deep_are_calls_that_the_parser_finds_wrong(depth):
    deep = "[" * depth + "]" * depth
    for arguments in (deep, {"input": json.loads("[" * 400 + "]" * 400)}):
        message = {"tool_calls": [{"index": 0, "function": {"name": "text_search", "arguments": arguments}}]}
        parse_turn(read_reply({"choices": [{"message": message}]}, "host").text)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, (10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 900}, (10, 890)),  # Gemini's, with thoughts
        ({"prompt_tokens": 10, "total_tokens": 900}, (10, 890)),  # Gemini's, with nothing but thoughts
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3}, (10, 5)),
        ({"total_tokens": 900}, (0, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": "900"}, (10, 5)),
        (None, (0, 0)),
    ],
)
def test_tokens_of_thoughts_count_though_only_the_total_holds_them(usage, tokens):
    reply = read_reply({"choices": [{"message": {"content": "x"}}], "usage": usage}, "host")
    assert (reply.prompt_tokens, reply.completion_tokens) == tokens


def whole(finish="stop", **message):
    return read_reply({"choices": [{"index": 0, "message": message, "finish_reason": finish}]}, "host")


SEARCH = {"id": "c", "name": "text_search", "input": {"input": ["Chad"]}}
SEARCH_TAG = '<tool_call>{"name": "text_search", "arguments": {"input": ["Chad"]}}</tool_call>'


def test_calls_among_the_parts_of_a_message_are_made():
    reply = whole(content=[{"type": "text", "text": "see"}, {"type": "tool_use", **SEARCH}])
    assert reply.text == "see" + SEARCH_TAG
    assert whole(content=[{"type": "text", "text": "a", "thought": True}, {"type": "text", "text": "b"}]).text == "b"
    with pytest.raises(ChatError, match="a form that is not known"):
        whole(content=[{"functionCall": {"name": "text_search", "args": {}}}])


def test_a_call_whose_arguments_have_another_name_is_read():
    function = {"name": "text_search", "parameters": {"input": ["Chad"]}}
    assert whole(content=None, tool_calls=[{"function": function}]).text == SEARCH_TAG


@pytest.mark.parametrize(
    ("finish", "words"),
    [("refusal", "filter"), ({"type": "abort", "message": "x"}, "error"), ("null", ""), ({"type": "length"}, "")],
)
def test_the_end_of_a_reply_is_read_in_each_form(finish, words):
    if words:
        with pytest.raises(ChatError, match=words):
            whole(finish, content="Chad")
    else:
        assert whole(finish, content="Chad").finish_reason == ("" if finish == "null" else "length")


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": ""}, "finish_reason": None}]},
        {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}], "base_resp": {"status_msg": "sensitive"}},
        {"choices": [{"message": {"content": {"verdict": "correct"}}, "finish_reason": "stop"}]},
    ],
)
def test_nothing_is_no_reply(body):
    with pytest.raises(ChatError):
        read_reply(body, "host")


@pytest.mark.parametrize(
    "body",
    [
        {"error_code": 110, "error_msg": "Access token invalid or no longer valid"},
        {"code": "InvalidApiKey", "message": "Invalid API-key provided."},
        {"base_resp": {"status_code": 1004, "status_msg": "login fail: Please carry the API secret key"}},
    ],
)
def test_a_wrong_key_under_http_200_ends_the_run(body):
    with pytest.raises(ChatError) as caught:
        read_reply(body, "host")
    assert caught.value.fatal


async def test_a_wrong_key_under_status_400_ends_the_run_however_late(connect):
    wrong = (400, {}, {"error": {"message": "litellm.AuthenticationError: Incorrect API key provided"}})
    _, client = await connect(said("correct"), wrong)
    await client.complete([("user", ("x",))])
    with pytest.raises(ChatError) as caught:
        await client.complete([("user", ("x",))])
    assert caught.value.fatal


@pytest.mark.parametrize("size", [1, 4096])
@pytest.mark.parametrize(
    "failure",
    [
        'event: error\ndata: {"reason": "worker died"}\n\n', 'error: {"message": "boom"}\n\n', "error: boom\n\n",
    ],
)  # fmt: skip
async def test_an_event_named_error_is_one(failure, size):
    stream = f"{event(content='a')}\n\n{failure}{event(content='b', finish='stop')}\n\n{DONE}\n\n"
    found, _ = await read_stream(stream.encode(), size)
    reader = StreamReader("host")
    assert reader.feed(found[0]) == "a"
    with pytest.raises(ChatError, match=r"failed: (boom|it did not say what)"):
        reader.feed(found[1])
    assert reader.feed(found[2]) == "b"  # the name is of one event only


async def test_space_in_front_of_an_event_is_no_part_of_it():
    stream = f" {event(content='a')}\n\n\0{event(content='b')}\n\n{DONE}\n\n"
    assert len((await read_stream(stream.encode(), 7))[0]) == 3


def test_a_call_that_comes_once_more_as_a_whole_is_one_call():
    reader = StreamReader("host")
    for part in (
        CALL,
        REST,
        {**CALL, "function": {"name": "text_search", "arguments": '{"input": ["population of Chad"]}'}},
    ):
        reader.feed({"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]})
    assert reader.calls().count("<tool_call>") == 1


def test_empty_arguments_in_front_of_those_that_come_are_none():
    reader = StreamReader("host")
    for name, arguments in (("text_search", "{}"), (None, '{"input": ["Chad"]}')):
        part = {"index": 0, "id": "c", "function": {"name": name, "arguments": arguments}}
        reader.feed({"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]})
    assert reader.calls() == SEARCH_TAG
