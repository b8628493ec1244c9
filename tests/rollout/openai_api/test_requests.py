"""Requests are untrusted: what is no request, too large, or asks for what is not there is refused by name."""

import asyncio
import math

import pytest

from hypereyes_jax.env.media.images import data_uri
from hypereyes_jax.env.web.urls import UrlGuard
from hypereyes_jax.rollout import SamplingConfig
from hypereyes_jax.rollout.openai_api.requests import (
    BadRequest,
    ChatToolCall,
    ImageUrl,
    RequestLimits,
    read_request,
    with_images,
)
from tests.rollout.paced import picture

DEFAULT = SamplingConfig(temperature=0.8, top_p=0.95, max_new_tokens=100)
USER = [{"role": "user", "content": "hi"}]


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


def read(limits=None, **fields):
    return read_request({"messages": USER, **fields}, DEFAULT, limits)


def test_what_is_missing_is_the_servers_default_and_what_is_given_counts():
    assert read().sampling == DEFAULT
    given = read(temperature=0, top_p=0.5, top_k=-1, max_completion_tokens=7, n=3, seed=-1, stop="x", stream=True)
    assert given.sampling == SamplingConfig(0.0, 0.5, max_new_tokens=7)
    assert (given.n, given.seed, given.stop, given.stream) == (3, 2**63 - 1, ("x",), True)


def test_fields_that_a_chat_front_end_sends_and_that_change_nothing_are_taken():
    front_end = {
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "logit_bias": None,
        "user": "u",
        "metadata": {"a": "b"},
        "stream_options": {"include_usage": True},
        "response_format": {"type": "text"},
        "tool_choice": "auto",
        "store": False,
        "parallel_tool_calls": True,
        "repetition_penalty": 1.0,
        "guided_json": None,
        "modalities": ["text"],
    }
    assert read(**front_end).include_usage


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "role"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio"),
        ({"messages": [{"role": "user", "content": [image("file:///etc")]}]}, "data URI"),
        ({"messages": [{"role": "system", "content": [image("data:x")]}]}, "images belong"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "tool_calls"),
        ({"messages": USER * 600}, "600 messages"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 17}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"guided_choice": ["yes", "no"]}, "guided_choice"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": "x"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"model": 5}, "model"),
        ({"stream_options": "include_usage"}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "include_usage"),
        ({"stream_options": {"continuous_usage_stats": True}}, "stream_options"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"enable_thinking": True}, "has no thinking mode"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "has no thinking mode"),
        ({"chat_template_kwargs": {"enable_thinking": 0}}, "has no thinking mode"),
        ({"chat_template_kwargs": {"add_vision_id": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_and_the_field_named(fields, word):
    with pytest.raises(BadRequest, match=word):
        read(**fields)


@pytest.mark.parametrize("thinks", [False, True])
def test_a_client_may_say_whether_the_model_thinks_where_it_says_what_is_so(thinks):
    for so in (
        {"chat_template_kwargs": {"enable_thinking": thinks}},
        {"enable_thinking": thinks},
        {"enable_thinking": None},
    ):
        assert read_request({"messages": USER, **so}, DEFAULT, thinks=thinks).messages
        assert read_request({"messages": USER, "chat_template_kwargs": {}}, DEFAULT, thinks=thinks).messages
    with pytest.raises(BadRequest, match="always thinks" if thinks else "no thinking mode"):
        read_request({"messages": USER, "enable_thinking": not thinks}, DEFAULT, thinks=thinks)


@pytest.mark.parametrize("body", [None, [], 5, "x"])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(BadRequest, match="JSON object"):
        read_request(body, DEFAULT)


def test_more_tokens_than_the_limit_are_cut_to_it():
    assert read(RequestLimits(new_tokens=50), max_tokens=10**6).sampling.max_new_tokens == 50


def test_images_are_counted_over_the_conversation():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}
    with pytest.raises(BadRequest, match="3 images exceed"):
        read(RequestLimits(images=2), messages=[{"role": "user", "content": [part] * 3}])


def test_pixels_are_counted_over_the_conversation_before_they_are_decoded():
    parts = [{"type": "image_url", "image_url": {"url": data_uri(picture(seed), "PNG")}} for seed in range(3)]
    pixels = math.prod(picture(1).size)
    request = read(messages=[{"role": "user", "content": [*parts, parts[0]]}])
    asyncio.run(with_images(request, None, RequestLimits(pixels=3 * pixels)))
    with pytest.raises(BadRequest, match=rf"too large \(the images before it leave room for {pixels - 1:,} pixels"):
        asyncio.run(with_images(request, None, RequestLimits(pixels=3 * pixels - 1)))


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "a" * 101}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a" * 51}] * 2}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "a" * 101}}]},
        {
            "messages": [
                *USER,
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "a" * 101}}]},
                *USER,
            ]
        },
    ],
)
def test_characters_are_counted_before_they_are_tokenised(fields):
    assert read(RequestLimits(characters=300), **fields)
    with pytest.raises(BadRequest, match=r"characters exceed the 100 that fit this server"):
        read(RequestLimits(characters=100), **fields)


def test_tool_calls_of_an_assistant_are_read():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [*USER, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "2"}]
    request = read(messages=messages)
    assert request.messages[1].calls == (ChatToolCall("f", '{"a": 1}'),)
    assert request.messages[2].parts == ("2",)


@pytest.mark.parametrize(
    "message", [{"content": None, "refusal": "no"}, {"content": [{"type": "refusal", "refusal": "no"}]}]
)
def test_what_an_assistant_refused_earlier_is_its_turn(message):
    request = read(messages=[*USER, {"role": "assistant", **message}, *USER])
    assert request.messages[1].parts == ("no",)


def test_data_uris_are_decoded_once_and_private_urls_refused():
    uri = data_uri(picture(1), "PNG")
    part = {"type": "image_url", "image_url": {"url": uri}}
    request = asyncio.run(with_images(read(messages=[{"role": "user", "content": [part, part]}]), None))
    one, other = request.messages[0].parts
    assert one is other
    assert one.size == picture(1).size

    private = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]}]
    assert read(messages=private).messages[0].parts == (ImageUrl("http://127.0.0.1/x.png"),)
    for guard, why in ((None, "switched off"), (UrlGuard(), "can't be read")):
        with pytest.raises(BadRequest, match=why):
            asyncio.run(with_images(read(messages=private), guard))


def test_a_broken_image_is_refused():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(BadRequest, match="can't be read"):
        asyncio.run(with_images(read(messages=[{"role": "user", "content": [part]}]), None))


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_numbers_beyond_a_float_are_refused(name, value):
    with pytest.raises(BadRequest, match=f"`{name}` must lie between"):
        read(**{name: value})


@pytest.mark.parametrize("calls", [5, True, "x", {"function": {"name": "look"}}])
def test_tool_calls_that_are_no_list_are_refused(calls):
    with pytest.raises(BadRequest, match=r"messages\[1\].tool_calls must be a list"):
        read(messages=[*USER, {"role": "assistant", "tool_calls": calls}, *USER])


def conversation(*results):
    calls = [{"id": name, "function": {"name": "visit", "arguments": "{}"}} for name in ("first", "second")]
    turn = {"role": "assistant", "content": None, "tool_calls": calls}
    return [*USER, turn, *({"role": "tool", "tool_call_id": name, "content": name} for name in results), *USER]


def test_results_of_parallel_calls_stand_in_the_order_of_the_calls():
    messages = read(messages=conversation("second", "first")).messages
    assert [message.parts for message in messages] == [("hi",), ("",), ("first",), ("second",), ("hi",)]
    assert messages == read(messages=conversation("first", "second")).messages
    with pytest.raises(BadRequest, match="'third'"):
        read(messages=conversation("first", "third"))
    assert read(messages=[{"role": "tool", "content": "a"}, *USER]).messages[0].parts == ("a",)


def test_a_call_in_the_older_form_is_kept():
    call = {"role": "assistant", "content": None, "function_call": {"name": "visit", "arguments": "{}"}}
    assert read(messages=[*USER, call]).messages[1].calls == (ChatToolCall("visit", "{}"),)


@pytest.mark.parametrize(
    "field",
    [
        {"json_schema": "{}"}, {"regex": "[a-z]+"}, {"grammar": "root ::= x"}, {"typical_p": 0.5}, {"mirostat": 2},
        {"skip_special_tokens": False}, {"max_output_tokens": 5}, {"stop_sequences": ["x"]}, {"system": "be brief"},
        {"reasoning": {"effort": "high"}}, {"thinking": {"type": "enabled"}}, {"plugins": [{"id": "web"}]},
        {"extra_body": {"top_k": 1}}, {"documents": [{"text": "x"}]},
    ],
)  # fmt: skip
def test_what_other_servers_take_and_would_change_the_reply_is_refused(field):
    (name,) = field
    with pytest.raises(BadRequest, match=name):
        read(**field)


def test_fields_of_other_servers_that_say_what_is_so_anyway_are_taken():
    read(thinking={"type": "disabled"}, typical_p=1.0, skip_special_tokens=True, plugins=[])
