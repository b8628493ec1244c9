import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypereyes_jax.env import Answer, ImageSearch, Malformed, TextSearch, count_completion, parse_turn, tool_call
from hypereyes_jax.env.actions import ToolCall

VECTORS = json.loads((Path(__file__).parent / "data" / "parser_vectors.json").read_text())["parser"]


@pytest.mark.parametrize("case", VECTORS, ids=[case["note"] for case in VECTORS])
def test_published_counting_reproduces_the_authors_counts(case):
    counts = count_completion(case["completion"], published_counting=True)
    assert counts.tool_calls == case["tool_count"]
    assert counts.searches == case["search_count"]
    assert counts.max_parallel == case["max_parallel"]
    assert counts.per_turn == tuple((row["tool_calls"], row["searches"]) for row in case["per_turn"])
    assert counts.final_answer == case["final_answer"]


def test_three_boxes_are_three_searches_in_one_round():
    turn = parse_turn(VECTORS[0]["completion"].split("<|im_end|>")[0])
    assert turn.reason == "r"
    assert turn.action == ImageSearch("img_0", ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0, 0.5, 0.5, 1)))
    assert turn.invocations == 3
    assert turn.is_round
    counts = count_completion(VECTORS[0]["completion"])
    assert (counts.tool_calls, counts.searches) == (1, 3)


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (call("text_search", input=["a", " ", "b "]), TextSearch(("a", "b"))),
        (call("text_search", input="a| b |"), TextSearch(("a", "b"))),
        (call("image_search"), ImageSearch("img_0")),
        (call("image_search", area=None, image_id="img_2"), ImageSearch("img_2")),
        (call("image_search", area=[], img_id="img_1"), ImageSearch("img_1")),
        (
            call("image_search", area=[[0, 0, 1, 1], [1, 2], ["a", 0, 0, 1]]),
            ImageSearch("img_0", ((0, 0, 1, 1), None, None)),
        ),
        ('<tool_call>\n{"name": "text_search", "arguments": {"input": ["a"]}}\n', TextSearch(("a",))),
        ('<tool_call>{"name":"text_search","arguments":{"input":["a"]}}<|im_end|>', TextSearch(("a",))),
        ('<tool_call>{"name":"text_search","arguments":"{\\"input\\": [\\"a\\"]}"}</tool_call>', TextSearch(("a",))),
        (
            call("text_search", input=["</tool_call><answer>x</answer>"]),
            TextSearch(("</tool_call><answer>x</answer>",)),
        ),
        ("<answer> Chad </answer>", Answer("Chad")),
        ("<answer>Chad", Answer("Chad", closed=False)),
        (call("text_search", input=["a"]) + "<answer>Chad</answer>", Answer("Chad")),
        (call("text_search", input=["a"]) + "<answer> </answer>", TextSearch(("a",))),
    ],
)
def test_action_of_a_turn(text, action):
    assert parse_turn(text).action == action


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{bad</tool_call>",
        "<tool_call>" + "[" * 100_000,
        "<tool_call>" + "1" * 10_000 + "</tool_call>",
        "<tool_call>[]</tool_call>",
        call("image_search", area=[0, 0, 1, 1]),
        call("image_search", image_id=3),
        *(call("image_search", area=area) for area in (0, False, {}, "", "[[0, 0, 1, 1]]")),
        call("text_search", input=[]),
        call("text_search"),
        call("fly", input=["a"]),
        '<tool_call>{"name": "text_search"}</tool_call>',
    ],
)
def test_a_wrong_call_is_malformed_and_no_round(text):
    turn = parse_turn(text)
    assert isinstance(turn.action, Malformed)
    assert turn.action.is_call
    assert turn.action.why
    assert turn.calls
    assert not turn.is_round
    assert turn.invocations == 0


def test_a_turn_without_tags_is_malformed_and_no_round():
    turn = parse_turn("I think it is Chad.")
    assert isinstance(turn.action, Malformed)
    assert not turn.is_round
    assert turn.reason == "I think it is Chad."


def test_several_calls_of_a_turn_are_all_read():
    turn = parse_turn(
        "<reason>both</reason>"
        + call("image_search", area=[[0, 0, 1, 1]] * 2)
        + call("text_search", input=["a", "b", "c"])
    )
    assert [type(c) for c in turn.calls] == [ImageSearch, TextSearch]
    assert turn.invocations == 5


def test_piped_image_ids_are_searched_each():
    turn = parse_turn(call("image_search", image_id="img_1|img_2"))
    assert turn.action.image_ids == ("img_1", "img_2")
    assert turn.action.entries == turn.invocations == 2


def test_an_unclosed_reason_ends_where_the_call_begins():
    turn = parse_turn("<reason>look" + call("text_search", input=["a"]))
    assert turn.reason == "look"
    assert turn.action == TextSearch(("a",))


def test_numbers_no_box_can_hold_are_an_unreadable_box():
    text = (
        '<tool_call>{"name":"image_search","arguments":{"area":[[0,0,1e999,1],[NaN,0,1,1],[0,0,1%s,1],[true,0,1,1]]}}'
        % ("0" * 400)
    )
    assert parse_turn(text).action == ImageSearch("img_0", (None,) * 4)


@pytest.mark.parametrize("value", ["1e999", "NaN", "-Infinity"])
def test_a_number_that_json_has_not_is_no_argument_of_a_tool(value):
    turn = parse_turn(
        f'<tool_call>{{"name": "zoom", "arguments": {{"by": {value}}}}}</tool_call>', tools={"zoom": True}
    )
    assert isinstance(turn.action, Malformed)
    assert "a number that is infinite or none" in turn.action.why


def test_lone_surrogates_never_leave_the_parser():
    assert parse_turn("<reason>\ud83d</reason><answer>a \ud83d</answer>").action == Answer("a ?")
    (query,) = parse_turn(
        '<tool_call>{"name":"text_search","arguments":{"input":["\\ud800x"]}}</tool_call>'
    ).action.queries
    query.encode("utf-8")


TAGS = [
    "<reason>",
    "</reason>",
    "<tool_call>",
    "</tool_call>",
    "<answer>",
    "</answer>",
    "<|im_end|>",
    "{",
    "}",
    "[",
    "]",
    '"',
]
PIECES = [
    *TAGS,
    '{"name": "text_search", "arguments": ',
    '{"input": ["a"]}',
    '"image_search"',
    '"area": ',
    "null",
    "1e999",
    "\\ud800",
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5))).map("".join)))
def test_any_text_parses(text):
    turn = parse_turn(text)
    assert turn.invocations >= 0
    assert isinstance(turn.action, ImageSearch | TextSearch | Answer | Malformed)
    assert parse_turn(text, published_counting=True).action == turn.action
    count_completion(text)


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["image_search", "text_search", "other"]),
    st.one_of(
        JSON_VALUE,
        st.fixed_dictionaries({}, optional={"image_id": JSON_VALUE, "area": JSON_VALUE, "input": JSON_VALUE}),
    ),
)
def test_any_json_arguments_parse(name, arguments):
    turn = parse_turn(f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>")
    assert turn.calls
    assert turn.is_round == (turn.invocations > 0)
    for query in getattr(turn.action, "queries", ()):
        assert isinstance(query, str)
        assert query.strip()


NUMBER = st.one_of(st.integers(-2000, 2000).map(float), st.floats(allow_nan=False, allow_infinity=False, width=32))
# A query may hold tags, but no special token: those never survive as text in a turn. Something in it can be seen.
QUERY = st.builds(
    lambda before, seen, after: (before + seen + after).strip(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.characters(categories=["L", "N", "P", "S"], exclude_characters="\u115f\u1160\u2800\u3164\uffa0"),
    st.text(st.characters(exclude_categories=["Cs"])),
).filter(lambda q: "<|" not in q)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.lists(QUERY, min_size=1).map(lambda queries: TextSearch(tuple(queries))),
        st.lists(st.none() | st.tuples(NUMBER, NUMBER, NUMBER, NUMBER)).map(
            lambda boxes: ImageSearch("img_3", tuple(boxes))
        ),
    )
)
def test_a_written_call_reads_back_the_same(action):
    assert parse_turn(tool_call(action)).action == action


CASES = [
    (
        "<reason>I don't know yet, so no <answer> tag in this turn.</reason>" + call("text_search", input=["a"]),
        TextSearch(("a",)),
        1,
    ),
    ("<reason>No <tool_call> is needed any more.</reason><answer>Chad</answer>", Answer("Chad"), 0),
    (
        "<think>I'd call "
        + call("text_search", input=["a"])
        + "</think>"
        + call("image_search", area=[[0, 0, 1, 1]] * 2),
        ImageSearch("img_0", ((0, 0, 1, 1),) * 2),
        2,
    ),
    ("<think>It may be <answer>Togo</answer>.</think><answer>Chad</answer>", Answer("Chad"), 0),
    ("<reason>First <think>draft <answer>Togo</answer></think> then</reason><answer>Chad</answer>", Answer("Chad"), 0),
    (
        "<reason>a</reason><reason>or <answer>Togo</answer>?</reason>" + call("text_search", input=["b"]),
        TextSearch(("b",)),
        1,
    ),
    ("No <answer> yet. " + call("text_search", input=["a"]), TextSearch(("a",)), 1),
    ("<reason>open " + call("text_search", input=["a"]) + "<reason>closed</reason>", TextSearch(("a",)), 1),
    ("<reason>r</reason><answer>a <tool_call> tag</answer>", Answer("a <tool_call> tag"), 0),
    ("<reason>a <reason>b</reason> c <answer>Togo</answer></reason><answer>Chad</answer>", Answer("Chad"), 0),
    ("<reason>the <reason> tag</reason><answer>Chad</answer>", Answer("Chad"), 0),
    ("Or <answer>Togo</answer>?</think><answer>Chad</answer>", Answer("Chad"), 0),
    (f"I'd {call('text_search', input=['a'])}</think>{call('text_search', input=['b'])}", TextSearch(("b",)), 1),
    ("<answer>Chad</answer></think>", Answer("Chad"), 0),
    ("<answer>Write </think> then</answer><answer>Togo</answer>", Answer("Write </think> then"), 0),
    (
        "<reason>No </think> and no "
        + call("text_search", input=["a"])
        + "</reason>"
        + call("text_search", input=["b"]),
        TextSearch(("b",)),
        1,
    ),
    ("I'd write <answer> last</think><answer>Chad</answer>", Answer("Chad"), 0),
    (call("text_search", input=["</think>"]) + call("text_search", input=["b"]), TextSearch(("</think>",)), 2),
    (
        call("text_search", input=["a"]).removesuffix("</tool_call>") + "<reason>or <answer>Togo</answer>?</reason>",
        TextSearch(("a",)),
        1,
    ),
    ("<answer><answer>Chad</answer></answer>", Answer("Chad"), 0),
    ("<answer>In <answer> tags: <answer>Chad</answer>", Answer("Chad"), 0),
    # Tags of reasoning in capitals, and those that other models think in.
    ("<THINK>It may be <answer>Togo</answer>.</THINK><answer>Chad</answer>", Answer("Chad"), 0),
    ("<inner_Monologue>It may be <answer>Togo</answer>.</inner_Monologue><answer>Chad</answer>", Answer("Chad"), 0),
    (
        f"<Reason>I'd {call('text_search', input=['a'])}</reason>{call('text_search', input=['b'])}",
        TextSearch(("b",)),
        1,
    ),
    ("It may be <answer>Togo</answer>.</Think><answer>Chad</answer>", Answer("Chad"), 0),
    *(
        (f"<{tag}>Or <answer>Togo</answer>?</{tag}><answer>Chad</answer>", Answer("Chad"), 0)
        for tag in ("thinking", "reasoning", "thought", "Thinking")
    ),
    (call("text_search", input=["the <THINK> tag"]), TextSearch(("the <THINK> tag",)), 1),
    # Reasoning with which an answer begins is no part of it.
    ("<answer><think>Togo?</think> Chad</answer>", Answer("Chad"), 0),
    ("<answer>\n<reason>or <answer>Togo</answer>?</reason><think>no</think>Chad</answer>", Answer("Chad"), 0),
    ("<answer><reason>Chad</answer>", Answer("<reason>Chad"), 0),
    ("<answer><think>Chad</answer></think>", Answer("<think>Chad"), 0),
    ("<answer>the <think> tag and </think></answer>", Answer("the <think> tag and </think>"), 0),
    # Marks of other models, spaces within a tag, and a tag closed by another's mark.
    *(
        (f"{begin}Or <answer>Togo</answer>?{end}" + call("text_search", input=["a"]), TextSearch(("a",)), 1)
        for begin, end in (
            ("[THINK]", "[/THINK]"),
            ("◁think▷", "◁/think▷"),
            ("<seed:think>", "</seed:think>"),
            ("<reason>", "</reason >"),
            ("<Think\n>", "</think>"),
            ("<think>", "</reason>"),
            ("<thought>", "</think>"),
            ("<scratchpad>", "</scratchpad>"),
            ("<analysis>", "</analysis>"),
            ("<inner_monologue>", "</inner_monologue>"),
            ('<think type="draft">', "</think>"),
            ("<reason lang='en'>", "</ reason>"),
            ("<|START_THINKING|>", "<|END_THINKING|>"),
            ("<|begin_of_thought|>", "<|end_of_thought|>"),
            ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        )
    ),
    ("<reason>look <answer>Chad</answer></think>", Answer("Chad"), 0),
    # A closing mark in a query closes no reasoning around the call.
    ("<reason>look " + call("text_search", input=["</reason>", "b"]), TextSearch(("</reason>", "b")), 2),
    ("<reason>look " + call("text_search", input=["</think>"]) + "<answer> </answer>", TextSearch(("</think>",)), 1),
    (
        "<reason>I'd " + call("text_search", input=["</reason>"]) + "</reason><answer>Chad</answer>",
        Answer("Chad"),
        0,
    ),
    # What is quoted, escaped or fenced is no tag only where it is not spelt as one.
    ("&lt;answer&gt;Togo&lt;/answer&gt; <answer>Chad</answer>", Answer("Chad"), 0),
]


@pytest.mark.parametrize(("text", "action", "invocations"), CASES)
def test_tags_inside_closed_reasoning_are_reasoning(text, action, invocations):
    turn = parse_turn(text)
    assert turn.action == action
    assert turn.invocations == invocations
    assert not any(isinstance(call, Malformed) for call in turn.calls)
    assert count_completion("<|im_start|>assistant\n" + text).searches == invocations


@pytest.mark.parametrize(
    "box",
    [
        None,
        [],
        [0, 0, 1],
        [0.5, 0.5, 0.5, 0.5],
        [0.9, 0, 0.1, 1],
        [0, 1, 1, 0],
        [float("nan"), 0, 1, 1],
        [[0, 0, 1, 1]],
    ],
)
def test_a_box_that_nobody_can_cut_out_asks_for_no_search(box):
    fake = parse_turn(call("image_search", area=[box]))
    assert (fake.invocations, fake.is_round) == (0, False)
    mixed = parse_turn(call("image_search", area=[box, [0, 0, 1, 1], box, [10, 20, 30, 40]]))
    assert (mixed.invocations, mixed.is_round) == (2, True)


@pytest.mark.parametrize(
    "query",
    ["", " \u00a0\u2003", "\u200b\u200d", "\ufeff", "\x00\x07", "\u200e", "\u3164", "\u2800", "\ufe0f", "\ud83d"],
)
def test_a_query_in_which_nothing_can_be_seen_is_none(query):
    turn = parse_turn(call("text_search", input=[query]))
    assert isinstance(turn.action, Malformed)
    assert (turn.invocations, turn.is_round) == (0, False)
    mixed = parse_turn(call("text_search", input=[query, "Чад", query, "\u0301a", "?", "🏳"]))
    assert mixed.action == TextSearch(("Чад", "\u0301a", "?", "🏳"))


@pytest.mark.parametrize("nothing", ["\u200b", "\ufeff", "\u00a0", "\u3164\u2060"])
def test_an_answer_in_which_nothing_can_be_seen_is_empty(nothing):
    assert parse_turn(f"<answer>{nothing}</answer>" + call("text_search", input=["a"])).action == TextSearch(("a",))
    assert parse_turn(f"<answer>{nothing}</answer><answer>Chad</answer>").action == Answer("Chad")
    for text in (f"<answer>{nothing}</answer>", f"<answer>{nothing}"):
        assert isinstance(parse_turn(text).action, Malformed)
    assert isinstance(parse_turn(nothing, plain_answers=True).action, Malformed)


@pytest.mark.parametrize(
    ("json_text", "names"),
    [
        ('{"name": "text_search", "arguments": {"input": ["a"], "input": ["b"]}}', "'input'"),
        ('{"name": "text_search", "arguments": {"input": ["a"]}, "arguments": {"input": ["b"]}}', "'arguments'"),
        (
            '{"name": "image_search", "arguments": {}, "name": "text_search", "arguments": {"input": "b"}}',
            "'name', 'arguments'",
        ),
        ('{"name": "text_search", "arguments": "{\\"input\\": [\\"a\\"], \\"input\\": [\\"b\\"]}"}', "'input'"),
    ],
)
def test_a_field_that_a_call_gives_twice_is_not_dropped_without_a_word(json_text, names):
    turn = parse_turn(f"<tool_call>{json_text}</tool_call>")
    assert turn.action == TextSearch(("b",))
    assert turn.calls[1].why == f"a tool call gives {names} twice: only the last of each was read"
    query = '"input": "input": {"name": 1, "name": 2}'
    assert parse_turn(call("text_search", input=[query])).calls == (TextSearch((query,)),)


def test_every_json_object_of_a_call_runs():
    one, other = ({"name": "text_search", "arguments": {"input": [query]}} for query in "ab")
    for body in (
        f"\n{json.dumps(one)}\n{json.dumps(other)}\n",
        json.dumps(one) + json.dumps(other),
        f"{json.dumps(one)}, {json.dumps(other)}",
        json.dumps([one, other]),
    ):
        turn = parse_turn(f"<tool_call>{body}</tool_call>")
        assert turn.calls == (TextSearch(("a",)), TextSearch(("b",)))
        assert turn.invocations == 2


@pytest.mark.parametrize(
    "rest", ["}", " and then", "<answer>Chad</answer>", "\n<reason>so</reason>", '{"name": "text_search"', "]"]
)
def test_what_follows_the_json_of_a_call_is_not_dropped_without_a_word(rest):
    turn = parse_turn(call("text_search", input=["a"]).replace("</tool_call>", rest + "</tool_call>"))
    assert turn.action == TextSearch(("a",))
    assert [type(each) for each in turn.calls] == [TextSearch, Malformed]
    assert "not read" in turn.calls[1].why


def test_tags_inside_a_closed_call_that_is_no_json_are_no_answer():
    broken = '<tool_call>{"name": "text_search", "arguments": {"input": ["<answer>Togo</answer>"]}</tool_call>'
    turn = parse_turn(broken)
    assert isinstance(turn.action, Malformed)
    assert turn.action.broken_json
    assert parse_turn(broken + call("text_search", input=["a"])).action == TextSearch(("a",))
    unclosed = '<tool_call>{"name": "text_search" <answer>Chad</answer>'
    assert parse_turn(unclosed + call("text_search", input=["a"])).action == Answer("Chad")


def test_a_call_beyond_the_limit_is_told_so_and_not_that_it_is_no_json():
    for text in (call("text_search", input=["a" * 70_000]), "<tool_call>[" + "1," * 40_000):
        assert "of at most 65,536 characters" in parse_turn(text).action.why
    assert "characters" not in parse_turn("<tool_call>{</tool_call>" + " " * 70_000).action.why


def test_entries_that_are_no_texts_are_counted_and_no_searches():
    turn = parse_turn(call("text_search", input=["a", 3, ["b"], None, " "]))
    assert turn.action == TextSearch(("a",), unusable=3)
    assert turn.invocations == 1


@pytest.mark.parametrize(
    ("value", "ignored"),
    [
        ({"name": "image_search", "arguments": {"image_id": "img_0", "bbox_2d": [0, 0, 1, 1]}}, ("bbox_2d",)),
        ({"name": "image_search", "arguments": {"image_id": "img_0"}, "area": [[0, 0, 1, 1]]}, ("area",)),
        ({"name": "image_search", "arguments": {"image_id": "img_0", "img_id": "img_1"}}, ("img_id",)),
        ({"name": "image_search", "arguments": {"img_id": "img_1", "area": []}}, ()),
        ({"name": "text_search", "arguments": {"input": ["a"], "query": "b"}, "id": "c1", "type": "f"}, ("query",)),
        ({"name": "text_search", "arguments": {"input": ["a"], **{f"\ud800{n}" * 50: n for n in range(9)}}}, None),
    ],
)
def test_fields_that_nothing_is_read_from_are_named(value, ignored):
    turn = parse_turn(f"<tool_call>{json.dumps(value)}</tool_call>")
    assert turn.invocations == 1
    if ignored is not None:
        assert turn.action.ignored == ignored
    assert len(turn.action.ignored) <= 3
    assert all(len(name.encode()) <= 120 for name in turn.action.ignored)


def test_other_tools_are_read_where_they_exist():
    text = call("visit", url="https://example.org")
    assert isinstance(parse_turn(text).action, Malformed)
    assert "image_search and text_search" in parse_turn(text).action.why
    turn = parse_turn(text, tools={"visit": False, "shop": True})
    assert turn.action == ToolCall("visit", {"url": "https://example.org"})
    assert (turn.invocations, turn.is_round, len(turn.calls)) == (0, False, 1)
    assert parse_turn(call("shop"), tools={"shop": True}).is_round
    assert (
        "image_search, text_search, visit and shop"
        in parse_turn(call("x"), tools={"visit": False, "shop": True}).action.why
    )


@pytest.mark.parametrize(
    ("text", "action", "reason"),
    [
        ("Chad", Answer("Chad"), ""),
        ("<think>Is it Togo? No.</think>\n\nChad", Answer("Chad"), "Is it Togo? No."),
        ("Is it <answer>Togo</answer>?</think>Chad", Answer("Chad"), "Is it <answer>Togo</answer>?"),
        ("<think>look</think>\n" + call("text_search", input=["a"]), TextSearch(("a",)), "look"),
        ("<think>without an end", Malformed("neither a tool call nor an answer was found"), "without an end"),
    ],
)
def test_models_with_function_calling_of_their_own_answer_without_a_tag(text, action, reason):
    turn = parse_turn(text, plain_answers=True)
    assert turn.action == action
    assert turn.reason == reason


def test_numpy_coordinates_are_written_as_numbers():
    boxes = (tuple(np.array([0.1, 0, 0.5, 1], np.float32)), tuple(np.array([0, 1, 2, 3], np.int64)))
    assert tool_call(ImageSearch("img_0", boxes)) == (
        '<tool_call>{"name": "image_search", "arguments": {"image_id": "img_0", '
        '"area": [[0.1, 0, 0.5, 1], [0, 1, 2, 3]]}}</tool_call>'
    )


def test_numpy_in_a_tools_arguments_and_boxes_that_are_none_are_written_as_json():
    action = ToolCall("visit", {"pages": np.int64(3), "area": np.array([0.5, 1.0])})
    assert parse_turn(tool_call(action), tools={"visit": False}).action.arguments == {"pages": 3, "area": [0.5, 1.0]}
    text = tool_call(ImageSearch("img_0", ((math.nan, 0, 1, 1), None, (0, 0, 10**400, 1))))
    assert "NaN" not in text
    assert parse_turn(text).action == ImageSearch("img_0", (None, None, None))
    with pytest.raises(TypeError, match="a set can't be an argument"):
        tool_call(ToolCall("visit", {"pages": {1}}))


def test_examples_in_a_prompt_are_no_calls():
    example = call("text_search", input=["example"])
    prompt = f"<|im_start|>system\nWrite {example}<|im_end|>\n<|im_start|>user\nWhich?<|im_end|>\n"
    counts = count_completion(f"{prompt}<|im_start|>assistant\n{example}<|im_end|>")
    assert (counts.tool_calls, counts.searches) == (1, 1)


def seconds(function, text):
    started = time.thread_time()  # of this thread: other programs on the machine don't count
    function(text)
    return time.thread_time() - started


@pytest.mark.parametrize(
    "piece",
    ["<tool_call>", "<answer>", "<reason>", "<think>", "<tool_call>[", '<tool_call>"', "</reason>", "<", "<|im_end|>",
     "<answer></answer>", '<tool_call>{"name":', "<reason></reason>", "<tool_call>{}</tool_call>", " ", "<tool_call> ",
     "<think><reason>", "<reason><reason></reason>", '<reason><tool_call>"</reason>', "<THINK>", "[THINK]", "<think >",
     '<tool_call>["<tool_call>[",', "<|im_start|>assistant\n<answer>", "1"],
)  # fmt: skip
@pytest.mark.parametrize("function", [parse_turn, count_completion])
def test_time_grows_no_faster_than_the_text(function, piece):
    # Eight times the text in at most 24 times the time; a quadratic reader takes 64 times. Short times are noise.
    small, large = (piece * (size // len(piece)) for size in (125_000, 1_000_000))
    function(small)
    assert seconds(function, large) < max(0.1, 24 * min(seconds(function, small) for _ in range(3)))


@pytest.mark.parametrize(
    ("before", "piece", "after"),
    [
        ("<answer>", "<reason></reason>", "</answer>"),
        ("<answer>", '<reason><tool_call>"</reason>', "</answer>"),
        ("", "<thinking>", "</think>"),
        ("", "<reason>", "</think><answer>Chad</answer>"),
    ],
)
def test_time_of_pieces_that_a_tag_encloses_grows_no_faster_than_the_text(before, piece, after):
    small, large = (before + piece * (size // len(piece)) + after for size in (125_000, 1_000_000))
    parse_turn(small)
    assert seconds(parse_turn, large) < max(0.05, 16 * min(seconds(parse_turn, small) for _ in range(3)))


@pytest.mark.parametrize("between", [", ", " "])
@pytest.mark.parametrize("count", [256, 257, 300])
def test_calls_beyond_what_is_read_are_told_and_not_dropped_without_a_word(between, count):
    call = '{"name": "text_search", "arguments": {"input": ["x"]}}'
    written = between.join([call] * count)
    for body in (written, f"[{', '.join([call] * count)}]"):
        calls = parse_turn(f"<tool_call>{body}</tool_call>").calls
        assert sum(isinstance(each, TextSearch) for each in calls) == 256
        why = [each.why for each in calls if isinstance(each, Malformed)]
        assert why == ([] if count == 256 else ["only the first 256 calls of a <tool_call> are read"])


def test_queries_that_are_written_as_json_twice_are_the_queries():
    assert parse_turn(call("text_search", input='["a", "b | c"]')).action == TextSearch(("a", "b | c"))
    assert parse_turn(call("text_search", input="[sic] a")).action == TextSearch(("[sic] a",))


@pytest.mark.parametrize("ending", ["</Answer>", "</ answer>", "</answer", "</ans", "</"])
def test_a_closing_tag_that_is_misspelt_or_cut_off_is_no_part_of_the_answer(ending):
    assert parse_turn(f"<answer>Chad{ending}").action == Answer("Chad", closed=False)


JSON_CALL = '{"name": "text_search", "arguments": {"input": ["a"]}}'


@pytest.mark.parametrize(
    "text",
    [
        JSON_CALL, f"```json\n{JSON_CALL}\n```", f"<tool_call >{JSON_CALL}</tool_call>", f"[TOOL_CALLS][{JSON_CALL}]",
        f"<|python_tag|>{JSON_CALL}", f"<function_call>{JSON_CALL}</function_call>", "Action Input: {}",
        '<function=text_search>{"input": ["a"]}</function>', "<｜tool▁calls▁begin｜>text_search",
        '<|channel|>commentary to=functions.text_search <|message|>{"input": ["a"]}<|call|>',
    ],
)  # fmt: skip
def test_a_call_in_the_format_of_another_model_is_no_answer(text):
    turn = parse_turn(text, plain_answers=True)
    assert isinstance(turn.action, Malformed)
    assert turn.action.is_call


def test_an_answer_that_is_json_or_names_tools_is_an_answer():
    for text in ('{"name": "Chad", "arguments": {}}', '{"answer": "Chad"}', "It has a tool call button."):
        assert parse_turn(text, plain_answers=True).action == Answer(text)
