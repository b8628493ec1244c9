"""Marks that other tools put on conversations: ids of calls, verdicts, weights, places of objects, chat templates."""

import json

import pytest

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.inspection import kind_of
from hypereyes_jax.data.sources import SourceOptions
from hypereyes_jax.errors import UserError

ASKED = {"role": "user", "content": "<image>Which?"}
REPLY = {"role": "assistant", "content": "<answer>Oslo</answer>"}


def row(*messages, **fields):
    return {"messages": [ASKED, *messages], "images": ["pics/0.png"], **fields}


def calls(*ids):
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": each,
                "type": "function",
                "function": {"name": "web_search", "arguments": json.dumps({"query": each})},
            }
            for each in ids
        ],
    }


def result(name, content=None):
    return {"role": "tool", "tool_call_id": name, "content": content or f"of {name}"}


def results(example, turn=1):
    text = "".join(part for part in example.observations[turn] if isinstance(part, str))
    return [line for line in text.split("\n") if line.startswith("of ")]


def test_results_are_shown_in_the_order_of_the_calls_that_they_name(lines, pictures):
    messages = [calls("a", "b", "c"), result("c"), result("a"), result("b"), calls("d"), result("d"), REPLY]
    (example,) = open_examples(lines(row(*messages)))
    assert results(example) == ["of a", "of b", "of c"]
    assert results(example, 2) == ["of d"]


def test_results_whose_ids_do_not_tell_their_calls_stay_as_they_are(lines, pictures):
    (example,) = open_examples(lines(row(calls("a", "a"), result("a"), result("a"), REPLY)))
    assert results(example) == ["of a", "of a"]


@pytest.mark.parametrize(
    ("made", "given", "why"),
    [
        (("a", "b"), ("b", "x"), "of the call 'x', and the calls before it are 'a', 'b'"),
        (("a", "b"), ("b", "b"), "no tool result in it is of the call 'a'"),
        (("a", "b", "c"), ("b", "c"), "no tool result in it is of the call 'a'"),
    ],
)
def test_results_whose_ids_are_not_those_of_the_calls_are_refused(lines, pictures, made, given, why):
    with pytest.raises(UserError, match=why):
        open_examples(lines(row(calls(*made), *map(result, given), REPLY)))


def test_results_in_anthropics_blocks_are_ordered_alike(lines, pictures):
    uses = [{"type": "tool_use", "id": name, "name": "web_search", "input": {"query": name}} for name in "ab"]
    found = [{"type": "tool_result", "tool_use_id": name, "content": f"of {name}"} for name in "ba"]
    messages = [{"role": "assistant", "content": uses}, {"role": "user", "content": found}, REPLY]
    (example,) = open_examples(lines(row(*messages)))
    assert results(example) == ["of a", "of b"]


@pytest.mark.parametrize("content", ["<image> of b", [{"type": "image", "image": "pics/1.png"}]])
def test_results_with_images_out_of_order_are_refused(lines, pictures, content):
    messages = [calls("a", "b"), result("b", content), result("a"), REPLY]
    with pytest.raises(UserError, match="results come in another order than the calls they are of, and hold images"):
        open_examples(lines(row(*messages)))


@pytest.mark.parametrize("field", ["label", "kto_tag", "is_correct", "success"])
def test_a_reply_that_is_marked_as_not_wanted_is_not_learnt(lines, pictures, field):
    path = lines(row(REPLY, id=1, **{field: False}), row(REPLY, id=2, **{field: True}))
    with pytest.raises(UserError, match=rf"line 1: its reply is marked as one that is not wanted \({field}: false\)"):
        open_examples(path)
    assert [example.id for example in open_examples(path, bad_rows="skip")] == ["2"]
    assert open_questions(path, bad_rows="skip").ids == ("2",)  # whose answer is taken from the reply
    (question,) = open_questions(lines(row(REPLY, label=False, answer="Bergen")))
    assert question.answers == ("Bergen",)


def test_what_is_marked_as_rejected_is_not_learnt(lines, pictures):
    with pytest.raises(UserError, match=r"not wanted \(rejected: true\)"):
        open_examples(lines(row(REPLY, rejected=True)))


def test_turns_that_a_mask_of_the_row_leaves_out_are_not_learnt(lines, pictures):
    assert len(open_examples(lines(row(REPLY, loss_mask=[0, 1])))) == 1
    with pytest.raises(UserError, match="its loss_mask leaves turns of the model out"):
        open_examples(lines(row(REPLY, loss_mask=[0, 0])))


@pytest.mark.parametrize("mark", [{"loss_scale": 0.0}, {"training": False}, {"masked": True}])
def test_a_turn_that_has_no_weight_is_not_learnt(lines, pictures, mark):
    with pytest.raises(UserError, match=rf"message 2 is marked as not to be learnt \({next(iter(mark))}: "):
        open_examples(lines(row(REPLY | mark)))


@pytest.mark.parametrize("place", ["<bbox>", "<ref-object>"])
def test_places_of_objects_beside_the_conversation_are_refused(lines, pictures, place):
    objects = {"ref": ["a dog"], "bbox": [[10, 20, 30, 40]]}
    asked = ASKED | {"content": f"<image>What is at {place}?"}
    data = {"messages": [asked, REPLY], "images": ["pics/0.png"], "objects": objects}
    for opened in (open_examples, open_questions):
        with pytest.raises(UserError, match=f"its texts have {place} in place of what stands in 'objects'"):
            opened(lines(data))
    (example,) = open_examples(lines(row(REPLY, objects=objects)))  # which no text has a place for
    assert example.turns == ("<answer>Oslo</answer>",)


def test_a_thought_before_a_call_in_json_is_its_reason(lines, pictures):
    said = '<think>Look it up.</think>{"name": "web_search", "arguments": {"query": "x"}}'
    talk = [("human", "<image>Which?"), ("function_call", said), ("observation", "Oslo."), ("gpt", "Oslo")]
    data = {"conversations": [{"from": who, "value": text} for who, text in talk], "images": ["pics/0.png"]}
    (example,) = open_examples(lines(data))
    assert example.turns[0].startswith("<reason>Look it up.</reason>\n<tool_call>")


@pytest.mark.parametrize("end", ["<|im_end|>", "<|im_end|>\n<|endoftext|>", "</s>", " <|eot_id|>\n"])
def test_the_mark_that_ends_a_turn_is_not_learnt_as_text(lines, pictures, end):
    (example,) = open_examples(lines(row({"role": "assistant", "content": f"<answer>Oslo</answer>{end}"})))
    assert example.turns == ("<answer>Oslo</answer>",)


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>system\nYou<|im_end|>\n<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n",
        "<s>[INST] Which? [/INST]",
        "[INST] Which? [/INST]",
        "<|start_header_id|>user<|end_header_id|>\n\nWhich?<|eot_id|>",
        "<start_of_turn>user\nWhich?<end_of_turn>",
    ],
)
def test_a_prompt_that_a_chat_template_was_applied_to_is_refused(lines, text):
    verl = {"prompt": text, "reward_model": {"ground_truth": "Oslo"}}
    for data in ({"prompt": text, "answer": "Oslo"}, {"question": text, "answer": "Oslo"}, verl):
        with pytest.raises(UserError, match="a text in it is what a chat template makes of messages"):
            open_questions(lines(data))
    with pytest.raises(UserError, match="a text in it is what a chat template makes of messages"):
        open_examples(lines({"prompt": text, "response": "Oslo"}))


def test_a_question_about_marks_is_a_question(lines):
    (question,) = open_questions(lines({"question": "What does <|im_start|> begin?", "answer": "a message"}))
    assert question.text == "What does <|im_start|> begin?"


def test_a_source_of_nothing_but_marked_rows_holds_demonstrations(lines, pictures):
    shuffled = [calls("a", "b"), result("b", "<image> of b"), result("a"), REPLY]
    for data in (row(REPLY, label=False), row(REPLY | {"loss": False}), row(*shuffled)):
        assert kind_of(str(lines(data)), SourceOptions()) == "demonstrations"
