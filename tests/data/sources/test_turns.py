"""Turns that no episode can have run are bad rows; calls in notations that can be read are written as ours."""

import json
from collections import Counter

import pytest

from hypereyes_jax.data import open_examples
from hypereyes_jax.data.inspection import kind_of
from hypereyes_jax.data.sources import SourceOptions
from hypereyes_jax.env.actions import Answer, ImageSearch, TextSearch, parse_turn
from hypereyes_jax.errors import UserError

LAST = "<reason>so</reason><answer>Oslo</answer>"
RESULT = "<tool_response>\n1. It is Oslo.\n</tool_response>"


def tagged(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def ours(*turns, images=1, crops=()):
    """A row as this project writes it: images in the prompt, and in the results after each turn."""
    shown = [[{"image": "pics/0.png"}] * images + ["Which?"]]
    shown += [[{"image": "pics/1.png"}] * count + [RESULT] for count in (*crops, *[0] * (len(turns) - 1 - len(crops)))]
    return {"id": "d", "system": "S", "observations": shown, "turns": list(turns)}


def theirs(*turns, images=1, crops=(), role="tool"):
    """A conversation of another project: a turn is a text, or a list of calls."""
    messages = [{"role": "user", "content": "<image>" * images + "Which?"}]
    pictures = ["pics/0.png", "pics/1.png", "pics/2.png"][:images]
    for number, turn in enumerate(turns):
        if isinstance(turn, str):
            messages.append({"role": "assistant", "content": turn})
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": [{"function": call} for call in turn]})
        if number + 1 < len(turns):
            count = crops[number] if number < len(crops) else 0
            pictures += ["pics/1.png"] * count
            messages.append({"role": role, "content": "<image>" * count + "It is Oslo."})
    return {"messages": messages, "images": pictures}


def search(**arguments):
    return [{"name": "crop_search", "arguments": arguments}]


def actions(example):
    return [parse_turn(turn).action for turn in example.turns]


BOX = [0.1, 0.1, 0.5, 0.5]
BAD = {
    "an image that is not there": (ours(tagged("image_search", image_id="img_1"), LAST), "no such image", "'img_1'"),
    "an image of another name": (ours(tagged("image_search", image_id="cat"), LAST), "no such image", "'cat'"),
    "an image where there is none": (
        ours(tagged("image_search"), LAST, images=0),
        "no such image",
        "there is no image",
    ),
    "a crop before it is cut": (
        ours(tagged("image_search", image_id="img_1"), tagged("image_search", area=[BOX]), LAST, crops=(0, 1)),
        "no such image",
        "there is img_0 alone",
    ),
    "one of several images": (
        ours(tagged("image_search", image_id="img_0|img_9"), LAST, images=2),
        "no such image",
        "'img_9', and there are 2 images",
    ),
    "a reversed box": (ours(tagged("image_search", area=[[0.5, 0.1, 0.1, 0.5]]), LAST), "empty box", "which is empty"),
    "an empty box": (ours(tagged("image_search", area=[[0.5, 0.1, 0.5, 0.5]]), LAST), "empty box", "which is empty"),
    "a box far outside": (ours(tagged("image_search", area=[[1.1, 0.1, 1.4, 0.5]]), LAST), "empty box", "outside"),
    "a box left of it": (ours(tagged("image_search", area=[[-0.4, 0, -0.1, 1]]), LAST), "empty box", "outside"),
    "a box in thousandths outside": (
        ours(tagged("image_search", area=[[10, 10, 900, 900], [-400, 0, -100, 1000]]), LAST),
        "empty box",
        "outside",
    ),
    "a box of three numbers": (ours(tagged("image_search", area=[[1, 2, 3]]), LAST), "empty box", "not four numbers"),
    "no query": (ours(tagged("text_search", input=[]), LAST), "no tool call", "no valid query"),
    "a query that is no text": (ours(tagged("text_search", input=["a", 3]), LAST), "no query", "that is not a string"),
    "a call that is not JSON": (ours("<tool_call>{]</tool_call>", LAST), "no tool call", "not valid JSON"),
    "a call that is not closed": (ours('<tool_call>{"name": "text_search"', LAST), "no tool call", "not closed"),
    "a thought that is not closed": (ours("<think>Hm. <answer>Oslo</answer>"), "tag not closed", "<think>.*not closed"),
    "an answer that is not closed": (ours("<answer>Oslo"), "tag not closed", "</answer>"),
    "an empty answer": (ours("<reason>so</reason><answer> </answer>"), "no answer", "is empty"),
    "an empty turn": (ours(" "), "empty turn", "is empty"),
    "an answer beside a call": (ours(tagged("text_search", input=["a"]) + LAST), "call beside an answer", "ends"),
    "code": (theirs("<code>search('x')</code>", LAST), "call in another notation", "<code>"),
    "code of ours": (ours("<code>search('x')</code>", LAST), "call in another notation", "<code>"),
    "a fence of code": (theirs("I search.\n```python\nsearch('x')\n```", LAST), "call in another notation", "python"),
    "an action in words": (
        theirs("Thought: hm\nAction: look at it", LAST, role="user"),
        "call in another notation",
        "Action:",
    ),
    "a tag of another model": (
        theirs("<function=search><parameter=query>x</parameter></function>", LAST),
        "call in another notation",
        "<function=search>",
    ),
    "a mark of another model": (theirs('[TOOL_CALLS] [{"a": 1}]', LAST), "call in another notation", "TOOL_CALLS"),
    "a mark of a search": (
        theirs("I search <|begin_search_query|>x<|end_search_query|>", LAST, role="user"),
        "call in another notation",
        "begin_search_query",
    ),
    "a result without a call": (theirs("I search for it.", LAST), "result without a call", "no call"),
    "a result of ours without a call": (ours("I search for it.", LAST), "result without a call", "no call"),
    "a result in a turn": (
        theirs("<search>x</search><information>It is Oslo.</information><answer>Oslo</answer>"),
        "result in a turn",
        "<information>",
    ),
    "an observation in a turn": (
        theirs("Thought: hm\nAction: search[x]\nObservation: It is Oslo.\nFinal Answer: Oslo"),
        "result in a turn",
        "Observation: I",
    ),
    "no image named of two": (theirs(search(bbox=BOX), LAST, images=2), "no such image", "without saying which"),
    "a crop by its own name": (theirs(search(image="crop_1"), LAST), "no such image", "'crop_1'"),
    "an image by an object": (theirs(search(image={"id": 1}), LAST), "no such image", "which is no name"),
    "an image beyond": (theirs(search(image=0), search(image=5), LAST), "no such image", "'img_5'"),
    "a reversed box of theirs": (theirs(search(image=0, bbox=[900, 100, 100, 500]), LAST), "empty box", "is empty"),
}


@pytest.mark.parametrize(("row", "kind", "why"), BAD.values(), ids=BAD)
def test_a_turn_that_cannot_have_been_run_is_a_bad_row(lines, pictures, row, kind, why):
    path = lines(row, theirs(LAST))
    with pytest.raises(UserError, match=f"line 1: .*{why}"):
        open_examples(path)
    with open_examples(path, bad_rows="skip") as examples:
        assert (len(examples), examples.report.bad) == (1, Counter({kind: 1}))


def test_a_source_of_nothing_but_such_rows_holds_demonstrations(lines, pictures):
    path = lines(theirs("<code>search('x')</code>", LAST), ours(tagged("image_search", image_id="img_1"), LAST))
    assert kind_of(str(path), SourceOptions()) == "demonstrations"


GOOD = {
    "a crop once it is cut": ours(
        tagged("image_search", image_id="img_0", area=[BOX]), tagged("image_search", image_id="img_1"), LAST, crops=(1,)
    ),
    "a crop that is not shown": ours(
        tagged("image_search", area=[BOX, BOX]), tagged("image_search", image_id="img_2"), LAST
    ),
    "a box that sticks out": ours(tagged("image_search", area=[[-0.1, 0.2, 1.2, 0.9]]), LAST),
    "a tool of one's own": ours(tagged("my_tool", depth=3), LAST),
    "tags within a thought": ours("<think>I write <answer> and then <code>.</think><answer>Oslo</answer>"),
    "a thought that a template opened": ours("Hm.</think><answer>Oslo</answer>"),
    "a tag within a query": ours(tagged("text_search", input=["what is <think>"]), LAST),
    "a chat of several questions": theirs("<answer>Oslo</answer>", "<answer>Bergen</answer>", role="user"),
    "plain words": theirs("Hello.", "Oslo", role="user"),
}


@pytest.mark.parametrize("row", GOOD.values(), ids=GOOD)
def test_a_turn_that_can_have_been_run_is_kept(lines, pictures, row):
    with open_examples(lines(row)) as examples:
        turns = examples[0].turns
    wanted = row.get("turns") or [m["content"] for m in row["messages"] if m["role"] == "assistant"]
    assert [turn.removeprefix("<answer>").removesuffix("</answer>") for turn in turns] == [
        turn.removeprefix("<answer>").removesuffix("</answer>") for turn in wanted
    ]


SEARCH, OSLO = TextSearch(("x",)), Answer("Oslo")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (
            ['Thought: hm\nAction: google_search\nAction Input: {"query": "x"}\nObservation:', "Final Answer: Oslo"],
            [SEARCH, OSLO],
        ),
        (["Thought 1: hm\nAction 1: Search[the tower]", "Action 2: Finish[Oslo]"], "unknown tool Search"),
        (["Action: search[x]", "Thought: I know.\nAction: Finish[Oslo]"], [SEARCH, OSLO]),
        (["Action: image_search\nAction Input: img_0", "Final Answer: Oslo"], [ImageSearch("img_0"), OSLO]),
        (['<think>hm</think>{"name": "web_search", "parameters": {"query": "x"}}', LAST], [SEARCH, OSLO]),
        (['```json\n[{"name": "search", "arguments": {"query": "x"}}]\n```', LAST], [SEARCH, OSLO]),
    ],
)
def test_calls_of_react_and_in_bare_json_are_written_as_ours(lines, pictures, turns, expected):
    path = lines(theirs(*turns), theirs(LAST))
    with open_examples(path, bad_rows="skip") as examples:
        if isinstance(expected, str):
            assert examples.report.bad == {expected: 1}
        else:
            assert actions(examples[0]) == expected
            assert all(name not in turn for turn in examples[0].turns for name in ("Thought", "Action", "Final Answer"))


def test_the_reason_of_react_stays_a_reason(lines, pictures):
    with open_examples(
        lines(theirs("Thought: I look.\nAction: search[x]", "Thought: so\nFinal Answer: Oslo"))
    ) as found:
        assert [parse_turn(turn).reason for turn in found[0].turns] == ["I look.", "so"]


@pytest.mark.parametrize(
    "turn",
    [
        "<think>k</think>So \\boxed{Oslo}.",
        "\\boxed{\\text{Oslo}}",
        "It is <Answer>Oslo</Answer>",
        "<final_answer>\nOslo\n</final_answer>",
        "<|begin_of_box|>Oslo<|end_of_box|>",
        "<ANSWER>Oslo</ANSWER>",
        '<Think>k</Think><answer type="short">Oslo</answer>',
        "Explanation: because\nExact Answer: Oslo\nConfidence: 90%",
        "**Answer:** Oslo\n\nSources: a page",
        '{"answer": "Oslo", "confidence": 0.9}',
    ],
)
def test_an_answer_is_read_where_others_mark_it(lines, pictures, turn):
    with open_examples(lines(theirs(turn))) as examples:
        assert actions(examples[0]) == [OSLO]


@pytest.mark.parametrize(
    "answer", ["```python\nprint(1)\n```", "<box>[1, 2, 3, 4]</box> is it", "Observation: it is red.", "Action: a film"]
)
def test_an_answer_that_looks_like_a_call_in_front_of_a_result_is_an_answer(lines, pictures, answer):
    with open_examples(lines(theirs(answer))) as examples:
        assert actions(examples[0]) == [Answer(answer)]


@pytest.mark.parametrize(
    ("images", "named", "expected"),
    [
        (1, "the original image", ["img_0"]),
        (1, "<image>", ["img_0"]),
        (1, "/tmp/uploads/a.jpg", ["img_0"]),
        (3, "/data/pics/2.png", ["img_2"]),
        (3, ["img_0", 2], ["img_0", "img_2"]),
        (3, "image 1|image 2", ["img_1", "img_2"]),
        (3, 2.0, ["img_2"]),
        (1, "image_1", ["img_0"]),  # which there can only be where the first is 1
        (2, [1, 2], ["img_0", "img_1"]),
    ],
)
def test_images_are_found_by_the_names_that_calls_give_them(lines, pictures, images, named, expected):
    with open_examples(lines(theirs(search(image=named), LAST, images=images))) as examples:
        assert actions(examples[0])[0] == ImageSearch("|".join(expected))


def test_images_that_are_counted_from_1_are_so_in_the_whole_conversation(lines, pictures):
    row = theirs(search(image="img_1", bbox=BOX), search(image="img_2"), LAST, crops=(1,))
    with open_examples(lines(row)) as examples:
        assert [call.image_id for call in actions(examples[0])[:2]] == ["img_0", "img_1"]


def test_a_crop_that_is_not_shown_is_no_sign_of_counting_from_1(lines, pictures):
    with open_examples(lines(theirs(search(bbox=BOX), search(image=1), LAST))) as examples:
        assert [call.image_id for call in actions(examples[0])[:2]] == ["img_0", "img_1"]


def test_boxes_in_pixels_of_several_images_are_fractions_of_each(tmp_path, lines):
    from PIL import Image

    (tmp_path / "pics").mkdir()
    for number, size in enumerate(((2000, 1000), (4000, 1000))):
        Image.new("RGB", size).save(tmp_path / "pics" / f"{number}.png")
    with open_examples(lines(theirs(search(image=[0, 1], bbox=[0, 0, 2000, 500]), LAST, images=2))) as examples:
        calls = parse_turn(examples[0].turns[0]).calls
    assert calls == (ImageSearch("img_0", ((0.0, 0.0, 1.0, 0.5),)), ImageSearch("img_1", ((0.0, 0.0, 0.5, 0.5),)))


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("It lies in Norway.\n**Answer:** Oslo", "It lies in Norway."),
        ("So \\boxed{Oslo}", "So"),
        ("<think>k</think>So \\boxed{Oslo}", "k"),
        ("<Think>k</Think>Oslo", "k"),
        ("Answer: Oslo", ""),
    ],
)
def test_words_before_a_marked_answer_are_its_reason_where_there_is_no_other(lines, pictures, turn, reason):
    with open_examples(lines(theirs(turn))) as examples:
        parsed = parse_turn(examples[0].turns[0])
    assert (parsed.reason, parsed.action) == (reason, OSLO)
