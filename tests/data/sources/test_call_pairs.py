"""A call without its result, and a result without its call, make bad rows where that can be told for sure."""

import json

import pytest

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.inspection import kind_of
from hypereyes_jax.data.sources import SourceOptions
from hypereyes_jax.errors import UserError

WITHOUT_RESULT, WITHOUT_CALL = "call without a result", "result without a call"
ASK = {"role": "user", "content": "Which?"}
MORE = {"role": "user", "content": "Are you sure?"}
LAST = {"role": "assistant", "content": "<answer>Oslo</answer>"}
VALUE = {"name": "web_search", "arguments": {"query": "x"}}
TAGGED = {"role": "assistant", "content": f"<tool_call>{json.dumps(VALUE)}</tool_call>"}
ROLE_CALL = {"role": "tool_call", "content": json.dumps(VALUE)}
RESPONSE = {"role": "tool_response", "content": "It is Oslo."}
HUMAN, GPT = {"from": "human", "value": "Which?"}, {"from": "gpt", "value": "Oslo"}
FUNCTION_CALL = {"from": "function_call", "value": json.dumps(VALUE)}
OBSERVATION = {"from": "observation", "value": "It is Oslo."}
MARKED = {"role": "user", "content": "<tool_response>It is Oslo.</tool_response>"}
PICTURE = {"role": "user", "content": [{"type": "image", "image": "pics/0.png"}]}
OLD_CALL = {"role": "assistant", "content": None, "function_call": VALUE | {"arguments": '{"query": "x"}'}}
OLD_RESULT = {"role": "function", "name": "web_search", "content": "It is Oslo."}
FENCED = {"role": "assistant", "content": f"```json\n{json.dumps(VALUE)}\n```"}


def calls(*ids):
    made = [{"type": "function", "function": VALUE} | ({"id": name} if name else {}) for name in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(name=None):
    return {"role": "tool", "content": "It is Oslo."} | ({"tool_call_id": name} if name else {})


def uses(*ids):
    return {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": name, "name": "web_search", "input": {"query": "x"}} for name in ids],
    }


def used(*ids):
    return {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": name, "content": "Oslo"} for name in ids],
    }


BAD = {
    "a user speaks after a call with an id": ([ASK, calls("a"), MORE, LAST], WITHOUT_RESULT),
    "a turn follows a call": ([ASK, calls("a"), LAST], WITHOUT_RESULT),
    "a turn calls after a call with an id": ([ASK, calls("a"), calls("b"), result("b"), LAST], WITHOUT_RESULT),
    "one of two calls has a result": ([ASK, calls("a", "b"), result("b"), LAST], WITHOUT_RESULT),
    "a later call has a result": ([ASK, calls("a"), MORE, calls("b"), result("b"), LAST], WITHOUT_RESULT),
    "another call without an id has one": ([ASK, calls(""), result(), calls(""), MORE, LAST], WITHOUT_RESULT),
    "another call in tags has one": ([ASK, TAGGED, result(), TAGGED, MORE, LAST], WITHOUT_RESULT),
    "ms-swift": ([ASK, ROLE_CALL, RESPONSE, ROLE_CALL, MORE, LAST], WITHOUT_RESULT),
    "ms-swift, a turn follows": ([ASK, ROLE_CALL, LAST], WITHOUT_RESULT),
    "LLaMA-Factory": ([HUMAN, FUNCTION_CALL, OBSERVATION, FUNCTION_CALL, HUMAN, GPT], WITHOUT_RESULT),
    "Anthropic": ([ASK, uses("a", "b"), used("b"), LAST], WITHOUT_RESULT),
    "Anthropic, a user speaks": ([ASK, uses("a"), MORE, LAST], WITHOUT_RESULT),
    "the older form": ([ASK, OLD_CALL, OLD_RESULT, OLD_CALL, MORE, LAST], WITHOUT_RESULT),
    "a result of another call": ([ASK, calls("a"), result("b"), LAST], WITHOUT_CALL),
    "a result of an earlier call": ([ASK, calls("a"), result("a"), calls("b"), result("a"), LAST], WITHOUT_CALL),
    "a result before any turn": ([ASK, result("a"), LAST], WITHOUT_CALL),
    "a result behind what the user says": ([ASK, LAST, MORE, result(), LAST], WITHOUT_CALL),
    "ms-swift's result before any turn": ([ASK, RESPONSE, LAST], WITHOUT_CALL),
    "LLaMA-Factory's behind an answer": ([HUMAN, GPT, HUMAN, OBSERVATION, GPT], WITHOUT_CALL),
    "Anthropic's of another call": ([ASK, uses("a"), used("b"), LAST], WITHOUT_CALL),
    "results apart, in another order": (
        [ASK, calls("a", "b"), result("b"), MORE, result("a"), LAST],
        "results out of order",
    ),
    "the older form's": ([ASK, OLD_RESULT, LAST], WITHOUT_CALL),
}


@pytest.mark.parametrize(("messages", "kind"), BAD.values(), ids=BAD)
def test_a_call_or_a_result_that_stands_alone_makes_a_bad_row(lines, messages, kind):
    start = [HUMAN, GPT] if "from" in messages[0] else [ASK, LAST]
    path = lines({"messages": messages}, {"messages": start})
    with pytest.raises(UserError, match=r"line 1: .*result"):
        open_examples(path)
    with open_examples(path, bad_rows="skip") as examples:
        assert (len(examples), examples.report.bad) == (1, {kind: 1})
    assert kind_of(str(lines({"messages": messages}, name="alone.jsonl")), SourceOptions()) == "demonstrations"


GOOD = {
    "a last call": [ASK, calls("a"), result("a"), calls("b")],
    "a last call alone": [ASK, calls("a")],
    "ms-swift's last call": [ASK, ROLE_CALL, RESPONSE, ROLE_CALL],
    "calls in two messages": [ASK, calls("a"), calls("b"), result("a"), result("b"), LAST],
    "a message for two calls": [ASK, ROLE_CALL, ROLE_CALL, RESPONSE, LAST],
    "two messages for a call": [ASK, calls(""), result(), result(), LAST],
    "ids of results alone": [ASK, calls(""), result("a"), LAST],
    "ids of calls alone": [ASK, calls("a", "b"), result(), LAST],
    "the same ids in each turn": [ASK, calls("a"), result("a"), calls("a"), result("a"), LAST],
    "results as the user's words": [ASK, calls(""), MORE, LAST],
    "results as the user's words in tags": [ASK, TAGGED, MORE, LAST],
    "a marked result of the user": [ASK, calls("a"), MARKED, LAST],
    "pictures of the user as results": [ASK, calls("a"), PICTURE, LAST],
    "a picture behind a result": [ASK, calls("a"), result("a"), PICTURE, LAST],
    "results apart": [ASK, calls("a", "b"), result("a"), MORE, result("b"), LAST],
    "words behind a result": [ASK, calls("a"), result("a"), MORE, LAST],
    "a call in fenced JSON": [
        ASK,
        {"role": "assistant", "content": f"```json\n{json.dumps(VALUE)}\n```"},
        result(),
        LAST,
    ],
    "ids in JSON in a text": [
        ASK,
        calls("a") | {"tool_calls": json.dumps(calls("a")["tool_calls"])},
        result("a"),
        LAST,
    ],
}


@pytest.mark.parametrize("messages", GOOD.values(), ids=GOOD)
def test_a_conversation_whose_calls_may_all_have_results_is_kept(lines, pictures, messages):
    assert len(open_examples(lines({"messages": messages}))) == 1


def test_a_question_is_asked_whatever_became_of_the_calls(lines):
    (question,) = open_questions(lines({"messages": [ASK, calls("a", "b"), result("b"), LAST]}))
    assert question.answers == ("Oslo",)


@pytest.mark.parametrize("call", ["```json\n{}\n```", "<think>hm</think>{}"])
def test_a_call_in_bare_json_is_no_answer_to_a_question(lines, call):
    called = {"role": "assistant", "content": call.format(json.dumps(VALUE))}
    (question,) = open_questions(lines({"messages": [ASK, called, {"role": "user", "content": "It is Oslo."}, LAST]}))
    assert question.answers == ("Oslo",)
