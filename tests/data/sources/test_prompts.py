"""Pictures in messages are shown where they stand: by index, in parts, by the tags of Qwen and of frameworks."""

import json
import re

import pytest

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.errors import UserError

RED, LIME = (255, 0, 0), (0, 255, 0)


def user(content):
    return {"role": "user", "content": content}


def reply(content):
    return {"role": "assistant", "content": content}


def shown(parts):
    return [part if isinstance(part, str) else part.getpixel((0, 0)) for part in parts]


def test_messages_of_the_user_in_a_row_are_one_question(lines, pictures):
    talk = [user([{"type": "image", "image": "pics/0.png"}]), user("Which colour?"), reply("<answer>red</answer>")]
    for row in ({"messages": talk}, {"prompt": talk[:2], "reward_model": {"ground_truth": "red"}}):
        (question,) = open_questions(lines(row))
        assert (question.text, shown(question.images), question.answers) == ("Which colour?", [RED], ("red",))


CALL = {"role": "assistant", "content": '<tool_call>{"name": "text_search", "arguments": {"input": ["x"]}}</tool_call>'}
ANSWER = reply("<answer>Oslo</answer>")


@pytest.mark.parametrize(
    "talk",
    [
        [user("Capital of Chad?"), reply("<answer>N'Djamena</answer>"), user("And of Norway?"), ANSWER],
        [user("Capital?"), reply("Of which country?"), user("Norway"), ANSWER],
        [user("Capital?"), CALL, user("<tool_response>Chad</tool_response>"), reply("Lagos"), user("Really?"), ANSWER],
    ],
)
@pytest.mark.parametrize("answer", [{}, {"answer": "Oslo"}])
def test_a_chat_that_asks_again_is_no_question(lines, talk, answer):
    with pytest.raises(UserError, match="asks again when the model has answered, and only its first question stands"):
        open_questions(lines({"messages": talk, **answer}))


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (CALL, "It is Oslo."),
        (reply("<search>x</search>"), "<information>It is Oslo.</information>"),
        (reply("Thought: I look.\nAction: search[x]"), "Observation: It is Oslo."),
        (reply("<code>search('x')</code>"), "It is Oslo."),
        (reply("I look."), "<tool_response>It is Oslo.</tool_response>"),
        ({"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}, "Oslo"),
    ],
)
def test_a_result_in_the_users_name_is_no_other_question(lines, call, result):
    (question,) = open_questions(lines({"messages": [user("Capital of Norway?"), call, user(result), ANSWER]}))
    assert (question.text, question.answers) == ("Capital of Norway?", ("Oslo",))


@pytest.mark.parametrize("history", [[["Hi", "Hello"]], '[["Hi", "Hello"]]', [user("Hi"), reply("Hello")]])
def test_a_question_behind_a_history_is_none(lines, history):
    row = {"instruction": "And of Norway?", "output": "Oslo", "history": history}
    with pytest.raises(UserError, match="can't be asked without the turns before it"):
        open_questions(lines(row))
    (question,) = open_questions(lines(row | {"history": "Norway was once a part of Denmark."}))
    assert question.answers == ("Oslo",)


def test_parts_name_pictures_by_their_index(lines, pictures):
    parts = [
        {"type": "text", "text": "Which of ", "index": None},
        {"type": "image", "text": None, "index": 1},
        {"type": "text", "text": " and ", "index": None},
        {"type": "image", "text": None, "index": 0},
    ]
    row = {"messages": [user(parts), reply("Red")], "images": ["pics/0.png", "pics/1.png"]}
    (example,) = open_examples(lines(row))
    assert shown(example.observations[0]) == ["Which of ", LIME, " and ", RED]


@pytest.mark.parametrize("index", [[2], [0, None], [-1], ["0"], [True]])
def test_an_index_of_no_picture_is_refused(lines, pictures, index):
    parts = [{"type": "image", "index": number} for number in index]
    row = {"messages": [user([*parts, "?"]), reply("Red")], "images": ["pics/0.png", "pics/1.png"]}
    with pytest.raises(UserError, match=r"its parts name the images|must be a number, from 0"):
        open_examples(lines(row))


@pytest.mark.parametrize(
    "text",
    ["<image>\nWhat?", "<|vision_start|><|image_pad|><|vision_end|>What?", "<img>pics/0.png</img>\nWhat?"],
)
def test_places_of_pictures_are_known_by_the_tags_of_qwen_and_of_frameworks(lines, pictures, text):
    row = {"messages": [user(text), reply("Red")]} | ({} if "<img>" in text else {"images": ["pics/0.png"]})
    (example,) = open_examples(lines(row))
    assert shown(example.observations[0]) == [RED, "What?"]
    (question,) = open_questions(lines({"question": text, "answer": "Red", **({"images": row.get("images")})}))
    assert (question.text, shown(question.images)) == ("What?", [RED])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is <image> older than <image>?", "Is img_0 older than img_1?"),
        ("<image>\nIs it older than <image>?", "Is it older than img_1?"),
        ("<image><image>\nWhich is older?", "Which is older?"),
        ("Which is older?\n<image>\n<image>", "Which is older?"),
        ("<image>Which is older?<image>", "Which is older?"),
        ("Old: <image>\nNew: <image>", "Old: img_0\nNew: img_1"),
        ("A <|vision_start|><|image_pad|><|vision_end|>or B <|image_pad|>?", "A img_0 or B img_1?"),
    ],
)
def test_pictures_among_the_words_of_a_question_are_named_there(lines, pictures, text, expected):
    row = {"answer": "Red", "images": ["pics/0.png", "pics/1.png"]}
    parts = [{"type": "image"} if part == "<image>" else part for part in re.split("(<image>)", text) if part]
    for data in ({"question": text}, {"prompt": [user(text)], "reward_model": {"ground_truth": "Red"}}):
        (question,) = open_questions(lines(data | row))
        assert question.text.split() == expected.split()
        assert shown(question.images) == [RED, LIME]
    if "<|" not in text:
        (question,) = open_questions(lines({"messages": [user(parts), reply("<answer>Red</answer>")]} | row))
        assert question.text.split() == expected.split()
    (question,) = open_questions(lines({"question": text} | row))
    assert question.text == expected


def test_places_that_count_pictures_from_1_are_their_ids(lines, pictures):
    row = {"image_1": "pics/0.png", "image_2": "pics/1.png", "image_3": None, "answer": "B"}
    options = "['<image 1>', '<image 2>', '<image 3>']"
    (question,) = open_questions(lines(row | {"question": "<image 1> Which is older?", "options": options}))
    assert question.text == "img_0 Which is older?\nA. img_0\nB. img_1\nC. <image 3>"  # which there is not
    assert question.answers == ("img_1", "B")
    assert shown(question.images) == [RED, LIME]


def test_a_picture_in_the_form_of_anthropic_is_shown(lines, pictures, red):
    import base64

    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(red).decode()}
    (example,) = open_examples(lines({"messages": [user([{"type": "image", "source": source}, "?"]), reply("Red")]}))
    assert shown(example.observations[0]) == [RED, "?"]


@pytest.mark.parametrize("reward", [{"answer": "Red"}, {"reward_model": {"ground_truth": "Red"}}])
@pytest.mark.parametrize("as_text", [False, True])
def test_pictures_inside_a_prompt_are_shown(lines, pictures, reward, as_text):
    prompt = [{"role": "system", "content": "Be short."}, user([{"type": "image_url", "image_url": "pics/0.png"}, "?"])]
    row = {"prompt": json.dumps(prompt) if as_text else prompt, **reward}
    (question,) = open_questions(lines(row))
    assert (question.text, question.answers, shown(question.images)) == ("?", ("Red",), [RED])
    with pytest.raises(UserError, match="its prompt holds images, and so does another column"):
        open_questions(lines(row | {"images": ["pics/1.png"]}))


def test_a_question_that_needs_the_turns_before_it_is_refused(lines):
    talk = [user("Where is it?"), reply("Oslo"), user("And its river?")]
    with pytest.raises(UserError, match="can't be used without the turns before it"):
        open_questions(lines({"prompt": talk, "answer": "Akerselva"}))
    extra = {"extra_info": {"question": "Which river?"}, "reward_model": {"ground_truth": "Akerselva"}}
    assert open_questions(lines({"prompt": talk, **extra}))[0].text == "Which river?"
    assert open_questions(lines({"prompt": [talk[0], reply("<think>")], "answer": "Oslo"}))[0].text == "Where is it?"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What?", "completion": "Red"},
        {"prompt": "What?", "response": "Red"},
        {"prompt": [user("What?")], "completion": [reply("Red")]},
        {"prompt": [user("What?")], "completion": "Red"},
    ],
)
def test_a_prompt_and_its_completion_are_a_demonstration(lines, row):
    (example,) = open_examples(lines(row))
    assert (example.observations, example.turns) == ((("What?",),), ("<answer>Red</answer>",))


def test_messages_of_the_model_in_a_row_are_parted(lines):
    row = {"messages": [user("What?"), reply("I see it."), reply("It is red.")]}
    (example,) = open_examples(lines(row))
    assert example.turns == ("<answer>I see it.\nIt is red.</answer>",)


def test_a_message_without_a_role_names_what_it_has(lines):
    with pytest.raises(
        UserError, match="message 1 needs 'role' and 'content', or 'from' and 'value', and has 'speaker'"
    ):
        open_examples(lines({"messages": [{"speaker": "user", "text": "What?"}, reply("Red")]}))
    both = {"role": None, "content": None, "from": "human", "value": "What?"}
    (example,) = open_examples(lines({"messages": [both, reply("Red")]}))
    assert example.observations == (("What?",),)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "<image>What?", "answer": "Red"},
        {"question": "<image>Which of <image>?", "answer": "Red", "images": ["pics/0.png"]},
        {"prompt": [user("<image>What?")], "answer": "Red", "images": []},
        {"prompt": [user("<image>What?")], "reward_model": {"ground_truth": "Red"}},
        {"prompt": [user([{"type": "image"}, "What?"])], "reward_model": {"ground_truth": "Red"}, "images": None},
    ],
)
def test_a_question_with_fewer_pictures_than_tags_is_refused(lines, pictures, row):
    with pytest.raises(
        UserError, match=r"its text has \d <image> tags, and it has \d images: .*--columns images=COLUMN"
    ):
        open_questions(lines(row))


def test_a_passage_beside_a_question_is_not_asked(lines):
    row = {"id": 1, "text": "A passage.", "question": "What?", "answers": ["Red"]}
    assert open_questions(lines(row))[0].text == "What?"


@pytest.mark.parametrize("form", ["list", "text", "columns"])
def test_messages_are_read_as_a_list_as_json_in_a_text_and_by_their_fields(lines, pictures, form):
    messages = [user("<image>What?"), reply("<answer>Red</answer>")]
    written = {
        "list": messages,
        "text": json.dumps(messages),
        "columns": {name: [message[name] for message in messages] for name in ("role", "content")},
    }[form]
    path = lines({"messages": written, "images": ["pics/0.png"]})
    (example,) = open_examples(path)
    assert (shown(example.observations[0]), example.turns) == ([RED, "What?"], ("<answer>Red</answer>",))
    (question,) = open_questions(path)
    assert (question.text, question.answers, shown(question.images)) == ("What?", ("Red",), [RED])
