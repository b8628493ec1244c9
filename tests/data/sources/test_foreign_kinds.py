"""What other data sets hold that would be learnt or asked as it stands: ciphers, ids of images, others' places of
images, boxes in two units, tools that answer, exchanges without roles, whole columns in a row."""

import base64
import hashlib
import json
import unicodedata

import pytest
from PIL import Image

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.env.actions import Answer, TextSearch, parse_turn
from hypereyes_jax.errors import UserError
from tests.data.sources.conftest import encoded

FINAL = "<answer>Oslo</answer>"
ASKED = [{"role": "user", "content": "?"}]
CALL = {"name": "text_search", "arguments": {"query": "it's x"}}


def ask(text, *turns):
    """A conversation whose turns are texts, or lists of calls, with results between them."""
    messages = [{"role": "user", "content": text}]
    for turn in turns:
        if len(messages) > 1:
            messages.append({"role": "tool", "content": "It is Oslo."})
        calls = [{"function": call} for call in turn] if isinstance(turn, list) else []
        messages.append(
            {"role": "assistant", "content": "" if calls else turn} | ({"tool_calls": calls} if calls else {})
        )
    return messages


def encrypted(text, key="canary"):
    stream = hashlib.sha256(key.encode()).digest() * 9
    return base64.b64encode(bytes(a ^ b for a, b in zip(text.encode(), stream, strict=False))).decode()


@pytest.mark.parametrize("columns", [("problem", "answer"), ("question", "answers")])
def test_an_encrypted_question_is_told(lines, columns):
    row = dict(zip(columns, (encrypted("Who wrote the book that came after it?"), encrypted("Ann")), strict=True))
    with pytest.raises(UserError, match=r"its question is no words but base64 .* decrypt questions and answers"):
        open_questions(lines(row))


@pytest.mark.parametrize(
    "text", ["Donaudampfschifffahrtsgesellschaft", "谁写了这本书并且在哪一年出版的呢请回答", "wh" * 14]
)
def test_a_question_of_one_word_is_no_cipher(lines, text):
    assert open_questions(lines({"question": text, "answer": "x"}))[0].text == text


@pytest.mark.parametrize("name", ["image_id", "imageId", "dataset_image_ids", "img_id"])
def test_a_question_whose_image_is_only_named_by_an_id_is_told(lines, pictures, name):
    with open_questions(lines({"question": "?", "answer": "x", name: "oven_5"})) as questions:
        assert [name in sentence for sentence in questions.report.left_out()] == [True]
    with open_questions(lines({"question": "?", "answer": "x", name: 5, "image": "pics/0.png"})) as questions:
        assert not questions.report.left_out()


PLACES = ["<|image|>", "<image_placeholder>", "<ImageHere>", "<start_of_image>", "<IMAGE>", "(<image>./</image>)"]


@pytest.mark.parametrize("place", PLACES)
def test_a_place_of_an_image_as_other_models_mark_it_is_one(lines, pictures, place):
    row = {"messages": ask(f"Is {place} it?", FINAL), "images": ["pics/0.png"]}
    (example,) = open_examples(lines(row))
    before, image, after = example.observations[0]
    assert (before, image.getpixel((0, 0)), after) == ("Is ", (255, 0, 0), " it?")
    (question,) = open_questions(lines({"question": f"{place}\nWhich?", "answer": "x", "image": "pics/0.png"}))
    assert (question.text, len(question.images)) == ("Which?", 1)
    with pytest.raises(UserError, match="1 <image> tags and 0 images"):
        open_examples(lines({"messages": ask(f"Is {place} it?", FINAL)}))


def test_such_a_tag_in_a_result_is_a_part_of_a_page(lines):
    messages = ask("?", [{"name": "web_search", "arguments": {"query": "x"}}], FINAL)
    messages[2]["content"] = "<Image> of a page"
    (example,) = open_examples(lines({"messages": messages}))
    assert "<Image> of a page" in example.observations[1][0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<image_1> or <image_2>?", "img_0 or img_1?"),
        ("<|image_1|>\n<|image_2|>\nWhich?", "img_0\nimg_1\nWhich?"),
        ("<img0> or <img1>?", "img_0 or img_1?"),
        ("Which is <image 2>, and <image 3>?", "Which is img_1, and <image 3>?"),
    ],
)
def test_places_that_count_images_are_their_ids(lines, pictures, text, shown):
    images = ["pics/0.png", "pics/1.png"]
    (example,) = open_examples(lines({"messages": ask(text, FINAL), "images": images}))
    assert example.observations[0][2] == shown
    (question,) = open_questions(lines({"question": text, "answer": "x", "images": images}))
    assert question.text == shown


def test_boxes_of_two_units_in_one_conversation_are_refused(lines, pictures):
    def row(*boxes):
        calls = [{"name": "image_search", "arguments": {"bbox": box}} for box in boxes]
        return {"messages": ask("<image>?", calls, FINAL), "images": ["pics/0.png"]}

    path = lines(row([0.1, 0.1, 0.5, 0.5], [10, 10, 40, 40]), row([0, 0, 1, 1]), row([0, 0, 2, 2], [9, 9, 64, 48]))
    with pytest.raises(UserError, match=r"line 1: its boxes are in two units: \[0.1, 0.1, 0.5, 0.5\] in fractions"):
        open_examples(path)
    with open_examples(path, bad_rows="skip") as examples:
        assert examples.report.bad == {"boxes in two units": 1}
    assert len(open_examples(path, box_units="pixel")) == 3


@pytest.mark.parametrize("name", ["final_answer", "finish"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_call_that_answers_is_the_answer(lines, name, inside):
    call = {"name": name, "arguments": {"answer": "Oslo"}}
    last = f"<think>so</think><tool_call>{json.dumps(call)}</tool_call>" if inside else [call]
    path = lines({"messages": ask("?", [{"name": "web_search", "arguments": {"query": "x"}}], last)})
    with open_examples(path) as examples:
        assert parse_turn(examples[0].turns[1]).action == Answer("Oslo")
    with pytest.raises(UserError, match="line 1: "):  # a search without an image
        open_examples(path, tools={name: "image_search"})


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": f"<tool_call>\n{CALL!r}\n</tool_call>"},
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "web_search", "arguments": "{'query': \"it's x\"}"}}],
        },
        {"role": "tool_call", "content": str(CALL)},
        {"from": "function_call", "value": str(CALL | {"arguments": '{"query": "it\'s x"}'})},
    ],
)
def test_a_call_as_python_writes_it_is_read(lines, turn):
    messages = [{"from": "human", "value": "?"}, turn, {"from": "tool", "value": "r"}, {"from": "gpt", "value": FINAL}]
    (example,) = open_examples(lines({"conversations": messages}))
    assert parse_turn(example.turns[0]).action == TextSearch(("it's x",))


@pytest.mark.parametrize("text", ["{'name': open('x')}", "{'a': " + "[" * 5000, "{'" + "x" * 70_000 + "': 1}", "{'a'}"])
def test_what_is_no_call_in_python_either_is_a_bad_row(lines, text):
    messages = [{"role": "user", "content": "?"}, {"role": "tool_call", "content": text}]
    with pytest.raises(UserError, match=r"line 1: .*tool call"):
        open_examples(lines({"messages": messages}))


@pytest.mark.parametrize(
    "row",
    [
        {"texts": [{"user": "Which?", "assistant": FINAL, "source": "s"}]},
        {"conversation": [{"human": "Which?", "assistant": FINAL}]},
    ],
)
def test_exchanges_without_roles_are_conversations(lines, row):
    (example,) = open_examples(lines(row))
    assert (example.observations, example.turns) == ((("Which?",),), (FINAL,))
    (question,) = open_questions(lines(row))
    assert (question.text, question.answers) == ("Which?", ("Oslo",))


@pytest.mark.parametrize(
    "value",
    [
        {"question": {"0": "A?", "1": "B?"}, "answer": {"0": "a", "1": "b"}},
        {"question": ["A?", "B?"], "answer": ["a", "b"]},
        {"columns": ["question", "answer"], "index": [0], "data": [["A?", "a"]]},
        {"text_of_it": {"0": "A?", "1": "B?"}, "b": {"0": "a", "1": "b"}},
    ],
)
def test_a_table_as_pandas_writes_it_has_the_cure(lines, value):
    with pytest.raises(UserError, match=r'to_json\(FILE, orient="records", lines=True\)'):
        open_questions(lines(value))


def test_rows_by_their_ids_over_several_lines_have_the_cure(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(
        json.dumps({"a": {"question": "?", "answer": "x"}, "b": {"question": "?", "answer": "x"}}, indent=1)
    )
    with pytest.raises(UserError, match=r"jq -c 'to_entries\[\] \| \{id: .key\} \+ .value' FILE"):
        open_questions(path)


@pytest.mark.parametrize(("there", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_that_a_mac_takes_apart_are_the_same_name(tmp_path, lines, there, written):
    (tmp_path / unicodedata.normalize(there, "é.png")).write_bytes(encoded("red"))
    row = {"question": "?", "answer": "x", "image": unicodedata.normalize(written, "é.png")}
    assert isinstance(open_questions(lines(row))[0].images[0], Image.Image)


def test_channels_of_harmony_are_thoughts_calls_and_the_answer(lines):
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "channel": "analysis", "content": "I look."},
        {"role": "assistant", "channel": "commentary", "recipient": "functions.search", "content": '{"query": "x"}'},
        {"role": "tool", "name": "functions.search", "content": "r"},
        {"role": "assistant", "channel": "analysis", "content": [{"type": "text", "text": "So."}]},
        {"role": "assistant", "channel": "final", "content": "Oslo"},
    ]
    with open_examples(lines({"messages": messages})) as examples:
        first, second = (parse_turn(turn) for turn in examples[0].turns)
        assert (first.reason, first.action, examples.report.kinds) == ("I look.", TextSearch(("x",)), {"Harmony": 1})
        assert (second.reason, second.action) == ("So.", Answer("Oslo"))


@pytest.mark.parametrize(
    ("row", "turn"),
    [
        ({}, {"finish_reason": "length"}),
        ({}, {"stop_reason": "max_tokens"}),
        ({"finish_reason": "length"}, {}),
        ({"truncated": True}, {}),
        ({"resolved": False}, {}),
    ],
)
def test_a_reply_that_was_cut_off_or_failed_is_not_learnt(lines, row, turn):
    said = {"role": "assistant", "content": FINAL}
    path = lines(
        {"messages": [*ASKED, said | turn]} | row,
        {"messages": [*ASKED, said | {"finish_reason": "stop"}], "truncated": False, "resolved": True},
    )
    with open_examples(path, bad_rows="skip") as examples:
        assert (len(examples), examples.report.bad) == (1, {"turn not to be learnt": 1})


@pytest.mark.parametrize(("result", "shown"), [(["a", "b"], "a\nb"), (5, "5"), (True, "true"), (["a"], "a")])
def test_a_result_that_is_no_text_is_shown_as_one(lines, result, shown):
    messages = ask("?", [{"name": "web_search", "arguments": {"query": "x"}}], FINAL)
    messages[2]["content"] = result
    assert open_examples(lines({"messages": messages}))[0].observations[1] == (
        f"<tool_response>\n{shown}\n</tool_response>",
    )


@pytest.mark.parametrize("role", ["tool-response", "tool_result", "environment", "function_response"])
def test_roles_of_results_by_other_names(lines, role):
    messages = ask("?", [{"name": "web_search", "arguments": {"query": "x"}}], FINAL)
    messages[2]["role"] = role
    assert open_examples(lines({"messages": messages}))[0].observations[1][0].startswith("<tool_response>")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ('{"return_type": "give_answer", "final_answer": "Oslo"}', "Oslo"),
        ('{"answer": "Oslo"}', "Oslo"),
        ('{"city": "Oslo"}', '{"city": "Oslo"}'),
    ],
)
def test_the_answer_of_a_call_of_finish_is_the_text_in_it(lines, said, answer):
    (example,) = open_examples(lines({"messages": ask("?", f"Thought: so\nAction: Finish\nAction Input: {said}")}))
    assert parse_turn(example.turns[0]).action == Answer(answer)


def test_a_call_of_finish_that_gives_up_is_no_answer(lines):
    said = 'Action: Finish\nAction Input: {"return_type": "give_up_and_restart"}'
    with pytest.raises(UserError, match="an <answer> in it is empty"):
        open_examples(lines({"messages": ask("?", said)}))


def test_the_key_of_arc_is_the_answer_and_an_image_of_coco_has_its_file(lines, pictures):
    choices = {"label": ["A", "B"], "text": ["rock", "gas"]}
    row = {"question": "?", "choices": choices, "answerKey": "B", "image": {"id": 5, "file_name": "pics/0.png"}}
    (question,) = open_questions(lines(row))
    assert (question.answers, len(question.images)) == (("gas", "B"), 1)
