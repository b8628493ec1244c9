"""Conversations of other tools become demonstrations: images at their places, calls and tags as ours."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.env.actions import Answer, ImageSearch, TextSearch, parse_turn
from hypereyes_jax.errors import UserError


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def shown(example):
    """Observations with each picture as the name of its colour."""
    names = {(255, 0, 0): "RED", (0, 255, 0): "LIME", (0, 0, 255): "BLUE"}
    return [
        [names[p.getpixel((0, 0))] if isinstance(p, Image.Image) else p for p in parts]
        for parts in example.observations
    ]


def actions(example):
    return [parse_turn(turn).action for turn in example.turns]


RESULT = "<tool_response>\nIt is Oslo.\n</tool_response>"


def test_openai_messages_with_content_parts_tool_calls_and_results(lines, pictures):
    path = lines(
        {
            "id": 5,
            "tools": [{"type": "function", "function": {"name": "web_search"}}],
            "messages": [
                {"role": "system", "content": "You have web_search."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "pics/1.png", "detail": "high"}},
                        {"type": "text", "text": "Which city?"},
                    ],
                },
                {
                    "role": "assistant",
                    "content": "I look at both.",
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {
                                "name": "image_search",
                                "arguments": '{"image": "img_0", "bbox_2d": [0, 0, 500, 1000]}',
                            },
                        },
                        {
                            "id": "2",
                            "type": "function",
                            "function": {"name": "web_search", "arguments": {"queries": ["a", "b"]}},
                        },
                    ],
                },
                {
                    "role": "tool",
                    "tool_call_id": "1",
                    "content": [{"type": "image", "image": "pics/2.png"}, {"type": "text", "text": "It is Oslo."}],
                },
                {"role": "tool", "tool_call_id": "2", "content": "nothing"},
                {"role": "assistant", "content": "<think>Clear.</think>Oslo"},
            ],
        }
    )
    examples = open_examples(path)
    (example,) = examples
    assert example.id == "5"
    assert shown(example) == [
        ["LIME", "Which city?"],
        ["BLUE", f"{RESULT}\n<tool_response>\nnothing\n</tool_response>"],
    ]
    first, second = (parse_turn(turn) for turn in example.turns)
    assert first.reason == "I look at both."
    assert first.calls == (ImageSearch("img_0", ((0.0, 0.0, 0.5, 1.0),)), TextSearch(("a", "b")))
    assert (second.reason, second.action) == ("Clear.", Answer("Oslo"))
    assert example.system.startswith("You answer questions about images by searching")  # theirs named other tools
    assert examples.report.mapped["web_search(queries)", "text_search(input)"] == 1
    assert examples.report.mapped["boxes in thousandths", "boxes in fractions"] == 1
    assert examples.report.mapped["<think>", "<reason>"] == 1
    assert examples.report.mapped["their system prompt", "our system prompt"] == 1


def test_ms_swift_roles_with_parallel_calls_and_image_tags(lines, pictures):
    path = lines(
        {
            "messages": [
                {"role": "user", "content": "Look: <image>and <image> which?"},
                {"role": "tool_call", "content": json.dumps(call("text_search", input=["x"]))},
                {"role": "tool_call", "content": json.dumps(call("image_search", image_id="img_1"))},
                {"role": "tool_response", "content": "<image>It is Oslo."},
                {"role": "assistant", "content": "<reason>so</reason><answer>Oslo</answer>"},
            ],
            "images": ["pics/0.png", "pics/1.png", {"path": "pics/2.png"}],
            "tools": "[]",
        }
    )
    (example,) = open_examples(path)
    assert shown(example) == [["Look: ", "RED", "and ", "LIME", " which?"], ["BLUE", RESULT]]
    assert parse_turn(example.turns[0]).calls == (TextSearch(("x",)), ImageSearch("img_1"))
    assert actions(example)[1] == Answer("Oslo")


def test_llama_factory_sharegpt(lines, pictures):
    path = lines(
        {
            "conversations": [
                {"from": "human", "value": "<image>Which?"},
                {"from": "function_call", "value": json.dumps(call("google_search", query="x"))},
                {"from": "observation", "value": "It is Oslo."},
                {"from": "gpt", "value": "Oslo"},
            ],
            "system": "Be brief.",
            "images": ["pics/2.png"],
        }
    )
    examples = open_examples(path)
    assert shown(examples[0]) == [["BLUE", "Which?"], [RESULT]]
    assert actions(examples[0]) == [TextSearch(("x",)), Answer("Oslo")]
    assert examples.report.kinds == {"ShareGPT": 1}
    (question,) = open_questions(
        lines(
            {
                "conversations": [
                    {"from": "human", "value": "<image>Which?"},
                    {"from": "gpt", "value": "<answer>Oslo</answer>"},
                ],
                "image": "pics/2.png",
            },
            name="q.jsonl",
        )
    )
    assert (question.text, question.answers, len(question.images)) == ("Which?", ("Oslo",), 1)


def test_alpaca_swift_pairs_and_verl_responses(tmp_path, lines, pictures):
    path = lines(
        {
            "instruction": "Which?",
            "input": "Think.",
            "output": "Oslo",
            "images": ["pics/0.png"],
            "history": [["hi", "hello"]],
        },
        {"query": "<image>Which?", "response": "\\boxed{Oslo}", "images": ["pics/0.png"]},
    )
    first, second = open_examples(path)
    assert shown(first) == [["RED", "hi"], ["Which?\nThink."]]
    assert (first.turns[0], actions(first)[1]) == ("hello", Answer("Oslo"))
    assert (shown(second), actions(second)) == ([["RED", "Which?"]], [Answer("Oslo")])
    rows = [{"prompt": [{"role": "user", "content": "Q"}], "response": "<answer>A</answer>"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "sft.parquet")
    assert actions(open_examples(tmp_path / "sft.parquet")[0]) == [Answer("A")]


def test_what_is_ours_is_kept_to_the_letter_with_its_system_prompt(lines, pictures):
    written = '{"name":"image_search","arguments":{"img_id":"img_0","area":[[0.1,0.2,0.3,0.4]]}}'
    turn = f"<reason>r</reason>\n<tool_call>{written}</tool_call> "
    messages = [
        {"role": "system", "content": "Theirs."},
        {"role": "user", "content": [{"type": "image", "image": "pics/0.png"}, {"type": "text", "text": "Q"}]},
        {"role": "assistant", "content": turn.strip()},
        {"role": "user", "content": RESULT},
        {"role": "assistant", "content": "<reason>r</reason><answer>A</answer>"},
    ]
    examples = open_examples(lines({"messages": messages}))
    assert examples[0].turns == (turn.strip(), messages[-1]["content"])
    assert examples[0].system == "Theirs."
    assert not examples.report.mapped
    assert open_examples(lines({"messages": messages}), system="Ours.")[0].system == "Ours."


@pytest.mark.parametrize(
    ("given", "units", "expected"),
    [
        ([0.25, 0.5, 1, 1], "auto", (0.25, 0.5, 1, 1)),
        ({"x1": 250, "y1": 500, "x2": 1000, "y2": 1000}, "auto", (0.25, 0.5, 1, 1)),
        ("[16, 24, 64, 48]", "pixel", (0.25, 0.5, 1, 1)),
        ({"x": 16, "y": 24, "width": 48, "height": 24}, "pixel", (0.25, 0.5, 1, 1)),
        ([[250, 500, 1000, 1000], [0, 0, 10, 20]], "permille", (0.25, 0.5, 1, 1)),
    ],
)
def test_boxes_of_all_units_become_fractions(lines, pictures, given, units, expected):
    messages = [
        {"role": "user", "content": "<image>Q"},
        {"role": "assistant", "tool_calls": [{"function": call("crop_and_search", image_idx=0, bbox=given)}]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "<answer>A</answer>"},
    ]
    examples = open_examples(lines({"messages": messages, "images": ["pics/0.png"]}), box_units=units)
    search = actions(examples[0])[0]
    assert search.image_ids == ("img_0",)
    assert search.boxes[0] == pytest.approx(expected)


def test_pixels_are_told_by_a_conversations_largest_coordinate_for_all_its_boxes(tmp_path, lines):
    (tmp_path / "pics").mkdir()
    Image.new("RGB", (2000, 1000)).save(tmp_path / "pics" / "0.png")
    messages = [
        {"role": "user", "content": "<image>Q"},
        {
            "role": "assistant",
            "tool_calls": [{"function": call("image_search", bbox=[[200, 100, 400, 500], [0, 0, 1600, 1000]])}],
        },
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "A"},
    ]
    search = actions(open_examples(lines({"messages": messages, "images": ["pics/0.png"]}))[0])[0]
    assert search.boxes == ((0.1, 0.1, 0.2, 0.5), (0.0, 0.0, 0.8, 1.0))


def test_tags_of_mmsearch_r1_and_search_r1(lines, pictures):
    messages = [
        {"role": "user", "content": "<image>Q"},
        {"role": "assistant", "content": "<reason>a</reason><search><img></search>"},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "<reason>b</reason><text_search>who is it</text_search>"},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "c</think><answer>A</answer>"},
    ]
    (example,) = open_examples(lines({"messages": messages, "images": ["pics/0.png"]}))
    assert actions(example) == [ImageSearch("img_0"), TextSearch(("who is it",)), Answer("A")]
    assert parse_turn(example.turns[2]).reason == "c"


HALF = '["caf\\ud83d"]'  # JSON in a text, with half of a surrogate pair


@pytest.mark.parametrize(
    "turn",
    [
        {"content": f'<tool_call>{{"name": "text_search", "arguments": {{"query": {HALF}}}}}</tool_call>'},
        {
            "content": "",
            "tool_calls": [{"function": {"name": "text_search", "arguments": f'{{"query": {HALF}}}'}}],
        },
    ],
    ids=["in the text", "beside it"],
)
def test_half_a_surrogate_pair_in_a_tool_call_is_a_question_mark(lines, turn):
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", **turn},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "<answer>A</answer>"},
    ]
    (example,) = open_examples(lines({"messages": messages}))
    assert actions(example) == [TextSearch(("caf?",)), Answer("A")]
    "".join(example.turns).encode()  # as a tokenizer will


def test_half_a_surrogate_pair_in_messages_as_json_is_a_question_mark(lines):
    messages = [{"role": "user", "content": "caf\ud83d"}, {"role": "assistant", "content": "<answer>A</answer>"}]
    (example,) = open_examples(lines({"messages": json.dumps(messages)}))
    assert shown(example) == [["caf?"]]


def test_half_a_surrogate_pair_in_listed_answers_and_meta_is_a_question_mark(lines):
    listed, ours = open_questions(
        lines(
            {"question": "Q", "answers": HALF},
            {"id": "1", "text": "Q", "answers": ["A"], "kind": "k", "images": [], "meta": f'{{"k": {HALF}}}'},
        )
    )
    assert listed.answers == ("caf?",)
    assert ours.meta["k"] == ["caf?"]


def test_an_unknown_tool_is_refused_unless_it_is_named(lines):
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "tool_calls": [{"function": call("look_up", query="x", site="y")}]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "A"},
    ]
    path = lines({"messages": messages}, {"messages": [messages[0], messages[-1]]})
    with pytest.raises(UserError, match=r"line 1: it calls the tool 'look_up'.*--tools look_up=image_search"):
        open_examples(path)
    skipped = open_examples(path, bad_rows="skip")
    assert (len(skipped), dict(skipped.report.unmapped)) == (1, {"tool look_up": 1})
    named = open_examples(path, tools={"look_up": "text_search"})
    assert actions(named[0])[0] == TextSearch(("x",))
    assert named.report.unmapped == {"argument site of look_up": 1}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            {"messages": [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "A"}]},
            "1 <image> tags and 0 images",
        ),
        ({"messages": [{"role": "user", "content": "Q"}]}, "must end with a turn of the model"),
        ({"messages": [{"role": "assistant", "content": "Q"}]}, "begins with a turn of the model"),
        ({"messages": [{"role": "robot", "content": "Q"}]}, "the role 'robot'"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "of the type 'audio'"),
        ({"messages": ["Q"]}, "message 1 must be an object"),
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "tool_call", "content": "{"}]}, "is not JSON"),
        ({"question": "Q", "answer": "A"}, "no conversation to learn from"),
        ({"instruction": "Q", "output": "A", "history": True}, "'history' must be a list of pairs"),
        ({"instruction": "Q", "output": "A", "history": {"Q": "A"}}, "'history' must be a list of pairs"),
    ],
)
def test_conversations_that_cannot_be_used_are_refused_by_name(lines, row, why):
    with pytest.raises(UserError, match=f"rows.jsonl, line 1: .*{why}"):
        open_examples(lines(row))


def test_box_in_pixels_of_an_image_that_is_not_there(lines):
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "tool_calls": [{"function": call("image_search", image=0, bbox=[0, 0, 5000, 5000])}]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "A"},
    ]
    with pytest.raises(UserError, match="in pixels of img_0, and it shows 0 images"):
        open_examples(lines({"messages": messages}))


_LAST = {"role": "assistant", "content": "<answer>x</answer>"}
_CALL = {"function": {"name": "text_search", "arguments": {"query": "q"}}}


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"role": "assistant", "content": "", "tool_calls": [_CALL]}, _LAST], "something after its tool call"),
        ([{"role": "assistant", "content": ""}, {"role": "user", "content": "?"}], "a turn of the model in it is empt"),
        ([{"role": "assistant", "content": "x", "loss": False}], r"message 2 is marked .* \(loss: False\)"),
        ([{"role": "assistant", "content": "x", "weight": 0}], r"message 2 is marked .* \(weight: 0\)"),
        ([{"role": "assistant", "content": '<tool_call>{"name": "text_search"}'}], "is not closed by </tool_call>"),
        ([{"role": "assistant", "content": "", "tool_calls": 5, "function_call": {"name": "x"}}], "must be a list"),
        ([{"role": "assistant", "content": "", "tool_calls": "x"}], "'tool_calls' of message 2 is not JSON"),
    ],
)
def test_turns_that_would_teach_something_else_are_refused(lines, messages, why):
    talk = [{"role": "user", "content": "?"}, *messages, *([_LAST] if messages[-1]["role"] == "user" else [])]
    with pytest.raises(UserError, match=why):
        open_examples(lines({"messages": talk}))


@pytest.mark.parametrize("content", ["", None, " "])
def test_a_message_that_asks_nothing_is_refused(lines, content):
    talk = [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]
    with pytest.raises(UserError, match="a message to the model in it is empty"):
        open_examples(lines({"messages": talk}))


def test_audio_is_refused(lines):
    talk = [{"role": "user", "content": "<audio>?"}, {"role": "assistant", "content": "x"}]
    with pytest.raises(UserError, match="it has audio"):
        open_examples(lines({"messages": talk, "audios": ["a.wav"]}))


@pytest.mark.parametrize(
    "calls", [json.dumps([_CALL]), [{"name": "text_search", "parameters": {"query": "q"}}], [_CALL]]
)
def test_tool_calls_may_be_json_in_a_text_and_name_their_arguments_parameters(lines, calls):
    talk = [
        {"role": "User", "content": "?"},
        {"role": "Assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "x"},
    ]
    turn = open_examples(lines({"messages": talk}))[0].turns[0]
    assert parse_turn(turn).action.queries == ("q",)


@pytest.mark.parametrize(
    ("box", "why"),
    [("[" + "9" * 400 + ", 0, 1, 1]", "out of all bounds"), ("[" * 500 + "]" * 500, "nest in more than 100 levels")],
)
def test_boxes_beyond_all_bounds_are_one_sentence(lines, box, why):
    call = {"function": {"name": "image_search", "arguments": f'{{"bbox": {box}}}'}}
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    with pytest.raises(UserError, match=why):
        open_examples(lines({"messages": talk}))


def talk_of(arguments, name="image_search"):
    return [
        {"role": "user", "content": "<image>?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]},
        {"role": "tool", "content": "It is Oslo."},
        {"role": "assistant", "content": "Oslo"},
    ]


@pytest.mark.parametrize("box", ["0.1, 0.2, 0.5, 0.75", "(0.1,0.2),(0.5,0.75)", ["0.1", "0.2", "0.5", ".75"]])
def test_a_box_in_texts_is_read(lines, pictures, box):
    row = {"messages": talk_of({"bbox": box}), "images": ["pics/0.png"]}
    (example,) = open_examples(lines(row), box_units="unit")
    assert actions(example)[0] == ImageSearch("img_0", ((0.1, 0.2, 0.5, 0.75),))


def test_boxes_in_two_units_are_told(lines, pictures):
    Image.new("1", (1600, 60)).save(pictures / "pics" / "wide.png")
    rows = [
        {"id": number, "messages": talk_of({"bbox": [box]}), "images": ["pics/wide.png"]}
        for number, box in enumerate(([10, 10, 900, 50], [10, 10, 1500, 50]))
    ]
    with open_examples(lines(rows[0])) as examples:
        assert not examples.report.left_out()
    with open_examples(lines(*rows)) as examples:
        (told,) = examples.report.left_out()
        assert told.startswith("boxes in thousandths and boxes in pixels are both found")


def test_boxes_with_decimals_are_pixels(lines, pictures):
    row = {"messages": talk_of({"bbox": [3.2, 4.8, 32.0, 24.0]}), "images": ["pics/0.png"]}
    (example,) = open_examples(lines(row))
    assert actions(example)[0] == ImageSearch("img_0", ((0.05, 0.1, 0.5, 0.5),))


@pytest.mark.parametrize("box", ["the left half", ["10%", "10%", "30%", "30%"], "10%,10%,30%,30%", [["a"]]])
def test_a_box_that_is_none_is_no_search_of_the_whole_image(lines, pictures, box):
    with pytest.raises(UserError, match="a box in one of its tool calls can't be read"):
        open_examples(lines({"messages": talk_of({"bbox": box}), "images": ["pics/0.png"]}))


def test_queries_of_any_form_are_all_read_or_the_row_is_bad(lines, pictures):
    row = {"messages": talk_of({"queries": ["a", {"q": "b"}, 2025]}, "text_search"), "images": ["pics/0.png"]}
    (example,) = open_examples(lines(row))
    assert actions(example)[0] == TextSearch(("a", "b", "2025"))
    with pytest.raises(UserError, match="a query of one of its tool calls is not a text"):
        open_examples(lines(row | {"messages": talk_of({"queries": ["a", {"what": "b"}]}, "text_search")}))


def test_what_the_system_says_later_is_shown_where_it_says_it(lines):
    hint = {"role": "system", "content": "One call is left."}
    messages = talk_of({"queries": ["a"]}, "text_search")
    messages[0] = {"role": "user", "content": "?"}
    (example,) = open_examples(lines({"messages": [*messages[:3], hint, messages[3]]}))
    assert example.observations[1] == (f"{RESULT}\nOne call is left.",)


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        ("See <image>: Oslo", "has a place of an image"),
        ("<answer>Bergen</answer><answer>Oslo</answer>", "has several answers"),
    ],
)
def test_a_turn_that_no_episode_reads_so_is_refused(lines, turn, why):
    with pytest.raises(UserError, match=why):
        open_examples(lines({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": turn}]}))


@pytest.mark.parametrize(
    "turn", ["<think>so</think>Final Answer: Oslo", "<think>so</think>\nIt fits.\n**Answer:** Oslo"]
)
def test_an_answer_behind_a_label_is_the_answer(lines, turn):
    (example,) = open_examples(
        lines({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": turn}]})
    )
    assert actions(example) == [Answer("Oslo")]


def test_a_call_in_the_text_and_beside_it_is_one_call(lines):
    inline = '<tool_call>{"name": "text_search", "arguments": {"input": ["x"]}}</tool_call>'
    beside = [{"function": call("text_search", input=["x"])}, {"function": call("text_search", input=["y"])}]
    older = {"name": "text_search", "arguments": '{"input": ["x"]}'}
    for turn, queries in (
        ({"content": inline, "tool_calls": beside[:1]}, [("x",)]),
        ({"content": inline, "tool_calls": beside}, [("x",), ("y",)]),
        ({"content": inline * 2, "tool_calls": beside[:1]}, [("x",), ("x",)]),
        ({"content": "", "tool_calls": beside[:1], "function_call": older}, [("x",)]),
    ):
        talk = [
            {"role": "user", "content": "?"},
            {"role": "assistant", **turn},
            {"role": "tool", "content": "It is Oslo."},
            {"role": "assistant", "content": "Oslo"},
        ]
        (example,) = open_examples(lines({"messages": talk}))
        assert [each.queries for each in parse_turn(example.turns[0]).calls] == queries


def test_calls_results_and_thoughts_as_parts_of_a_content_are_read(lines, pictures):
    use = {"type": "tool_use", "id": "t1", "name": "web_search", "input": {"query": "x"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "It is Oslo."}]}
    messages = [
        {"role": "user", "content": [{"type": "image", "image": "pics/0.png"}, {"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "I look."}, use]},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": [{"type": "text", "text": "Oslo"}]},
    ]
    (example,) = open_examples(lines({"messages": messages}))
    assert shown(example) == [["RED", "Which?"], [RESULT]]
    assert (parse_turn(example.turns[0]).reason, actions(example)) == ("I look.", [TextSearch(("x",)), Answer("Oslo")])


@pytest.mark.parametrize("result", [{"title": "Oslo", "rank": 1}, [{"title": "Oslo"}, {"title": "Bergen"}]])
def test_a_result_that_is_an_object_is_shown_as_json(lines, result):
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "content": result},
        _LAST,
    ]
    (example,) = open_examples(lines({"messages": messages}))
    assert json.dumps(result) in example.observations[1][0]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_a_thought_beside_a_turn_is_its_reason(lines, name):
    turn = {"role": "assistant", "content": "Oslo", "reasoning_content": None} | {name: "I know."}
    (example,) = open_examples(lines({"messages": [{"role": "user", "content": "?"}, turn]}))
    assert parse_turn(example.turns[0]).reason == "I know."


def test_messages_in_a_column_of_another_name_have_the_option_that_reads_them(lines):
    path = lines({"rounds": [{"role": "user", "content": "?"}, _LAST]})
    with pytest.raises(UserError, match="--columns messages=rounds"):
        open_examples(path)
    assert len(open_examples(path, {"messages": "rounds"})) == 1
    path = lines({"custom_id": 1, "body": {"model": "m", "messages": [{"role": "user", "content": "?"}, _LAST]}})
    with pytest.raises(UserError, match=r"--columns messages=body\.messages"):
        open_examples(path)
    assert len(open_examples(path, {"messages": "body.messages"})) == 1


@pytest.mark.parametrize("name", ["arguments", "parameters", "args", "input"])
def test_arguments_of_calls_beside_a_text_are_read_under_their_usual_names(lines, name):
    made = {"name": "web_search", "id": "1", "type": "tool_call", name: {"query": "x"}}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "content": "It is Oslo."},
        _LAST,
    ]
    (example,) = open_examples(lines({"messages": messages}))
    assert actions(example)[0] == TextSearch(("x",))


@pytest.mark.parametrize("name", ["mcp__serper__google_search", "functions.search", "server/web_search", "text_search"])
def test_a_tool_is_known_behind_the_name_of_its_server(lines, name):
    messages = [
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": call(name, query="x", image=None, bbox=None)}],
        },
        {"role": "tool", "content": "r"},
        _LAST,
    ]
    examples = open_examples(lines({"messages": messages}))
    assert actions(examples[0])[0] == TextSearch(("x",))
    assert not examples.report.unmapped  # what a table holds for other tools' arguments is null


def test_boxes_under_a_name_that_is_not_read_are_refused_rather_than_left_out(lines, pictures):
    messages = [
        {"role": "user", "content": "<image>?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": call("image_search", box_2d=[9, 9, 99, 99])}]},
        {"role": "tool", "content": "r"},
        _LAST,
    ]
    with pytest.raises(UserError, match="has boxes as 'box_2d', which is not read"):
        open_examples(lines({"messages": messages, "images": ["pics/0.png"]}))


FINAL = "<think>It is red.</think><answer>red</answer>"
ASKED = [{"role": "user", "content": "Which colour?"}]


@pytest.mark.parametrize(
    "row",
    [
        {"query": "Which colour?", "response": FINAL},
        {"query": "Which colour?", "response": "<think>It is red.</think>\n\nred"},
        {"instruction": "Which colour?", "input": "", "output": FINAL},
        {"instruction": "Which", "input": "colour?", "output": "red"},
        {"prompt": "Which colour?", "completion": FINAL},
        {"prompt": "Which colour?", "completion": "red"},
        {"prompt": ASKED, "completion": [{"role": "assistant", "content": FINAL}]},
        {"prompt": ASKED, "response": FINAL},
        {"input": "Which colour?", "output": [{"type": "message", "role": "assistant", "content": FINAL}]},
        {"input": ASKED, "output": [{"type": "message", "role": "assistant", "content": FINAL}]},
        {"id": "a", "system": "s", "observations": [["Which colour?"]], "turns": [FINAL]},
        {"messages": [*ASKED, {"role": "assistant", "content": FINAL}]},
    ],
)
def test_a_demonstration_is_a_question_too_whose_answer_is_what_it_ends_with(lines, row):
    (question,) = open_questions(lines(row))
    assert (question.text.replace("\n", " "), question.answers) == ("Which colour?", ("red",))
    assert not {"input", "output"} & set(question.meta) or isinstance(row["input"], str)
    (example,) = open_examples(lines(row))
    assert len(example.turns) == 1


def test_a_demonstration_of_this_project_keeps_its_pictures_as_a_question(lines, pictures):
    (path,) = pictures.glob("pics/0.png")
    start = [{"image": path.relative_to(pictures).as_posix()}, "Which colour?"]
    row = {"id": "a", "system": "s", "observations": [start, ["More."]], "turns": ["<reason>?</reason>", FINAL]}
    (question,) = open_questions(lines(row))
    assert (question.id, question.images[0].getpixel((0, 0))) == ("a", (255, 0, 0))
    with pytest.raises(UserError, match=r"line 1: it needs <answer>\.\.\.</answer> in its last turn"):
        open_questions(lines(row | {"turns": [FINAL, "red"]}))
