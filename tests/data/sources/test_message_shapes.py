"""One conversation as Gemini, LangChain and OpenAI's Responses have it, against the same in OpenAI's chat."""

import base64
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.errors import UserError
from tests.data.sources.conftest import encoded

RED = base64.b64encode(encoded("red")).decode()
URI = f"data:image/png;base64,{RED}"
ASK, FIRST, SECOND, FINAL = "Which city?", "It is Oslo.", "It is in Norway.", "<answer>Oslo</answer>"


def call(name, query, key="arguments"):
    return {"name": name, key: {"query": query}}


def chat():
    calls = [
        {"id": i, "type": "function", "function": {"name": n, "arguments": json.dumps({"query": q})}}
        for i, n, q in (("a", "web_search", "city"), ("b", "web_search", "land"))
    ]
    return [
        {"role": "system", "content": "Search."},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": URI}}, {"type": "text", "text": ASK}],
        },
        {"role": "assistant", "reasoning_content": "I look.", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": FIRST},
        {"role": "tool", "tool_call_id": "b", "content": SECOND},
        {"role": "assistant", "content": FINAL},
    ]


def gemini(result="result", snake=False):
    data = {"mime_type" if snake else "mimeType": "image/png", "data": RED}
    data_name, call_name, response_name = (
        ("inline_data", "function_call", "function_response")
        if snake
        else ("inlineData", "functionCall", "functionResponse")
    )
    return {
        "system_instruction" if snake else "systemInstruction": {"parts": [{"text": "Search."}]},
        "contents": [
            {"role": "user", "parts": [{data_name: data}, {"text": ASK}]},
            {
                "role": "model",
                "parts": [
                    {"text": "I look.", "thought": True},
                    {call_name: call("web_search", "city", "args")},
                    {call_name: call("web_search", "land", "args")},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {response_name: {"name": "web_search", "response": {result: FIRST}}},
                    {response_name: {"name": "web_search", "response": {result: SECOND}}},
                ],
            },
            {"role": "model", "parts": [{"text": FINAL}]},
        ],
    }


def langchain_fields():
    calls = [call("web_search", "city", "args") | {"id": "a"}, call("web_search", "land", "args") | {"id": "b"}]
    return [
        ("system", {"content": "Search."}),
        (
            "human",
            {"content": [{"type": "image_url", "image_url": {"url": URI}}, {"type": "text", "text": ASK}]},
        ),
        ("ai", {"content": "", "tool_calls": calls, "additional_kwargs": {"reasoning_content": "I look."}}),
        ("tool", {"content": SECOND, "tool_call_id": "b", "name": "web_search"}),
        ("tool", {"content": FIRST, "tool_call_id": "a", "name": "web_search"}),
        ("ai", {"content": FINAL, "additional_kwargs": {}}),
    ]


def of_additional_kwargs(fields):
    """As older versions of LangChain hold calls: as the provider sent them."""
    calls = [
        {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": json.dumps(c["args"])}}
        for c in fields.pop("tool_calls", ())
    ]
    return fields | {
        "additional_kwargs": fields.get("additional_kwargs", {}) | ({"tool_calls": calls} if calls else {})
    }


def of_blocks(kind, fields):
    """As LangChain 1 has thoughts and calls: as parts of the content, where calls stand beside it, too."""
    if not fields.get("tool_calls"):
        return {"type": kind} | fields
    blocks = [{"type": "tool_call", **c} for c in fields["tool_calls"]]
    return {
        "type": kind,
        "content": [{"type": "reasoning", "reasoning": "I look."}, *blocks],
        "tool_calls": fields["tool_calls"],
    }


CLASSES = {"system": "SystemMessage", "human": "HumanMessage", "ai": "AIMessageChunk", "tool": "ToolMessage"}


def responses_input():
    return [
        {"role": "system", "content": "Search."},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_image", "image_url": URI}, {"type": "input_text", "text": ASK}],
        },
    ]


def responses_output():
    return [
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "a", "name": "web_search", "arguments": '{"query": "city"}'},
        {"type": "function_call", "call_id": "b", "name": "web_search", "arguments": '{"query": "land"}'},
        {"type": "function_call_output", "call_id": "b", "output": SECOND},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": FIRST}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": FINAL}]},
    ]


ROWS = {
    "Gemini": gemini(),
    "Gemini's Python": gemini("output", snake=True),
    "LangChain's messages_to_dict": {"messages": [{"type": kind, "data": f} for kind, f in langchain_fields()]},
    "LangChain's model_dump": {"messages": [{"type": kind} | f for kind, f in langchain_fields()]},
    "LangChain's dumpd": {
        "messages": [
            {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", CLASSES[kind]], "kwargs": f}
            for kind, f in langchain_fields()
        ]
    },
    "LangChain of old": {
        "messages": [{"type": kind, "data": of_additional_kwargs(f)} for kind, f in langchain_fields()]
    },
    "LangChain's blocks": {"messages": [of_blocks(kind, f) for kind, f in langchain_fields()]},
    "Responses": {"input": responses_input(), "output": responses_output()},
    "Responses as messages": {"messages": [*responses_input(), *responses_output()]},
}


@pytest.fixture
def expected(lines):
    return open_examples(lines({"messages": chat()}, name="chat.jsonl"))[0]


def same(found, expected):
    assert found.turns == expected.turns
    assert found.system == expected.system
    assert len(found.turns) == 2
    ours, theirs = ([part for parts in one.observations for part in parts] for one in (found, expected))
    assert [part for part in ours if isinstance(part, str)] == [part for part in theirs if isinstance(part, str)]
    (picture,), (reference,) = ([part for part in parts if not isinstance(part, str)] for parts in (ours, theirs))
    assert np.array_equal(picture, reference)


@pytest.mark.parametrize("name", ROWS)
def test_a_demonstration_is_that_of_the_chat(name, lines, expected):
    with open_examples(lines(ROWS[name])) as examples:
        same(examples[0], expected)
        assert name.startswith(next(iter(examples.report.kinds)))


def in_parts(value):
    """With each content as a list of parts, since a column of a table has one type, and without empty objects."""
    if isinstance(value, list):
        return [in_parts(part) for part in value]
    if not isinstance(value, dict):
        return value
    contents = ("content", "output") if value.get("type") == "function_call_output" else ("content",)
    return {
        key: [{"type": "text", "text": part}] if key in contents and isinstance(part, str) else in_parts(part)
        for key, part in value.items()
        if part != {}
    }


@pytest.mark.parametrize("name", [name for name in ROWS if name != "LangChain's dumpd"])
def test_a_table_that_fills_up_absent_fields_gives_the_same(name, tmp_path, expected):
    pq.write_table(pa.Table.from_pylist([in_parts(ROWS[name])]), tmp_path / "rows.parquet")
    same(open_examples(tmp_path / "rows.parquet")[0], expected)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "Responses"])
def test_a_question_is_asked_with_its_picture(name, lines):
    question = open_questions(lines(ROWS[name]))[0]
    assert (question.text, question.answers, len(question.images)) == (ASK, ("Oslo",), 1)


def test_a_result_of_several_fields_is_shown_as_json(lines):
    row = gemini()
    row["contents"][2]["parts"][0]["functionResponse"]["response"] = {"title": "Oslo", "n": 1}
    text = "".join(part for part in open_examples(lines(row))[0].observations[1] if isinstance(part, str))
    assert '{"title": "Oslo", "n": 1}' in text


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            {"contents": [{"parts": [{"executableCode": {"code": "1"}}]}]},
            r"a part of message 1 has 'executableCode', which is not read",
        ),
        (
            {"contents": [{"parts": [{"fileData": {"mimeType": "audio/mp3", "fileUri": "a.mp3"}}]}]},
            "a part of message 1 is of the type 'audio/mp3', which is not read",
        ),
        (
            {"input": "Who?", "output": [{"type": "web_search_call", "id": "x", "status": "completed"}]},
            "item 2 is of the type 'web_search_call', whose results are not there to learn from: record the calls as",
        ),
        ({"contents": [{"parts": [3]}]}, "a part of message 1 must be a string or an object"),
        ({"contents": [{"role": "robot", "parts": [{"text": "a"}]}]}, "message 1 has the role 'robot'"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(lines, row, why):
    with pytest.raises(UserError, match=why):
        open_examples(lines(row))
