from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hypereyes_jax.processing import ChatFormat, chat_template
from hypereyes_jax.processing.tokenizer import CONTROL_TOKENS, train_tokenizer
from tests.in_process import run_here


@pytest.fixture(autouse=True)
def no_process(monkeypatch):
    monkeypatch.setattr(chat_template, "run_apart", run_here)


PICTURE = Image.new("RGB", (8, 8))
TEXTS = [
    "Which flag has a star?",
    "user\nassistant\nsystem",
    "<reason>two boxes</reason>\n\n<answer>Chad</answer>",
    "  spaces ",
]


def render(message: list) -> str:
    """A message as the template writes it, before tokenisation."""
    return "".join(part if isinstance(part, str) else "<|vision_start|><|image_pad|><|vision_end|>" for part in message)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS * 4, 400, path)
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def chat(tokenizer):
    return ChatFormat(tokenizer)


def test_a_conversation_is_rendered_as_qwen3_vl_does(chat, tokenizer):
    chunks = [
        chat.prompt("Search widely.", ["Look: ", PICTURE, PICTURE, " which?"]).tokens,
        chat.turn("<reason>a</reason>"),
        chat.observation(["<tool_response>\nfound ", PICTURE, "\n</tool_response>"]).tokens,
        chat.turn("<answer>b</answer>"),
    ]
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    expected = (
        "<|im_start|>system\nSearch widely.<|im_end|>\n"
        f"<|im_start|>user\nLook: {image}{image} which?<|im_end|>\n"
        "<|im_start|>assistant\n<reason>a</reason><|im_end|>\n"
        f"<|im_start|>user\n<tool_response>\nfound {image}\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<answer>b</answer><|im_end|>"
    )
    tokens = np.concatenate(chunks).tolist()
    assert tokenizer.decode(tokens) == expected
    assert tokens == tokenizer.encode(expected, add_special_tokens=False)


@settings(deadline=None)
@given(data=st.data())
def test_chunks_put_end_to_end_equal_the_tokens_of_the_whole_string(chat, tokenizer, data):
    text = st.text(st.characters(codec="utf-8", exclude_characters="<>|"), max_size=12) | st.sampled_from(TEXTS)
    parts = st.lists(text | st.just(PICTURE), max_size=4)
    system, question, observation = data.draw(text), data.draw(parts), data.draw(parts)
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    prompt += f"<|im_start|>user\n{render(question)}<|im_end|>\n<|im_start|>assistant\n"
    follow = f"\n<|im_start|>user\n{render(observation)}<|im_end|>\n<|im_start|>assistant\n"
    assert chat.prompt(system, question).tokens.tolist() == tokenizer.encode(prompt, add_special_tokens=False)
    assert chat.observation(observation).tokens.tolist() == tokenizer.encode(follow, add_special_tokens=False)


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_a_control_token_in_untrusted_text_is_only_characters(chat, tokenizer, token):
    forbidden = set(tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)))
    assert not forbidden & set(chat.encode(f"a{token}b"))
    assert tokenizer.decode(chat.encode(f"a{token}b")) == f"a{token}b"
    chunk = chat.observation([f"page {token}{token} end", PICTURE])
    assert (chunk.tokens == tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum() == len(chunk.images) == 1


def test_decode_drops_the_stop_token_only(chat):
    turn = chat.turn("<answer>Chad</answer>")
    assert turn[-1] in chat.stop_ids
    assert chat.decode(turn) == chat.decode(turn[:-1]) == "<answer>Chad</answer>"
    assert chat.decode([]) == ""


def test_a_tokenizer_without_the_control_tokens_is_refused():
    class Plain:
        def get_vocab(self):
            return {"<|im_start|>": 0}

    with pytest.raises(ValueError, match=r"<\|im_end\|>, <\|vision_start\|>"):
        ChatFormat(Plain())


# The shape of the published templates: messages as they are, and of a Thinking one reasoning that is opened and, in
# earlier turns, left out.
TEMPLATE = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}
{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}{%- endif %}
{%- if part.type == 'text' %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
THINKING = TEMPLATE.replace("assistant\n' }}{%- endif", "assistant\n<think>\n' }}{%- endif")


def with_template(tokenizer, template):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def test_a_template_that_renders_as_we_do_changes_nothing(chat, tokenizer):
    same = ChatFormat(with_template(tokenizer, TEMPLATE))
    assert same.opening == ""
    assert same.prompt("s", ["q"]).tokens.tolist() == chat.prompt("s", ["q"]).tokens.tolist()
    assert same.turn("a").tolist() == chat.turn("a").tolist()


def test_a_thinking_template_opens_the_turn_in_the_prompt(tokenizer):
    thinking = with_template(tokenizer, THINKING)
    chat = ChatFormat(thinking)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " Which?"}]}]
    rendered = thinking.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered.endswith("<|im_start|>assistant\n<think>\n")
    assert chat.prompt("", [PICTURE, " Which?"]).tokens.tolist() == thinking.encode(rendered, add_special_tokens=False)
    assert thinking.decode(chat.observation(["more"]).tokens).endswith("assistant\n<think>\n")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("<think>\nI look.\n</think>\n\n<answer>b</answer>", "<think>\nI look.\n</think>\n\n<answer>b</answer>"),
        ("<think>I look.</think><answer>b</answer>", "<think>\nI look.</think><answer>b</answer>"),
        ("<reason>a</reason><answer>b</answer>", "<think>\n\n</think>\n\n<reason>a</reason><answer>b</answer>"),
    ],
)
def test_a_turn_written_for_a_thinking_template_continues_what_the_prompt_opened(tokenizer, text, whole):
    chat = ChatFormat(with_template(tokenizer, THINKING))
    tokens = [*chat.prompt("", ["q"]).tokens, *chat.turn(text)]
    assert tokenizer.decode(tokens).endswith(f"<|im_start|>assistant\n{whole}<|im_end|>")
    assert chat.decode(chat.turn(text)) == whole


def test_a_template_that_opens_and_closes_reasoning_leaves_the_turn_as_it_is(tokenizer):
    closed = THINKING.replace("<think>\n", "<think>\n\n</think>\n\n")
    chat = ChatFormat(with_template(tokenizer, closed))
    assert tokenizer.decode(chat.prompt("", ["q"]).tokens).endswith("assistant\n<think>\n\n</think>\n\n")
    assert chat.decode(chat.turn("<answer>b</answer>")) == "<answer>b</answer>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<|im_end|>\n' }}{%- endfor", "<|im_end|>' }}{%- endfor"), "renders a conversation as"),
        (("assistant\n' }}{%- endif", "assistant\nSure: ' }}{%- endif"), "ends a prompt with"),
        (("assistant\n' }}{%- endif", "model\n' }}{%- endif"), "ends a prompt with"),
        (("{%- for message", "{{- raise_exception('no images') }}{%- for message"), "can't render .*no images"),
        (("{%- for message", "{%- for for message"), "can't render"),
        (("message.role + '\n'", "message.role + ('!' if loop.index > 3 else '') + '\n'"), "renders a second turn"),
    ],
)
def test_a_template_that_renders_otherwise_is_refused(tokenizer, change, message):
    assert change[0] in TEMPLATE
    with pytest.raises(ValueError, match=message):
        ChatFormat(with_template(tokenizer, TEMPLATE.replace(*change)))


def reloaded(tokenizer, path, **flags):
    """The tokenizer with flags of <|im_end|> changed in its file."""
    tokenizer.save_pretrained(path)
    content = json.loads((path / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        if token["content"] == "<|im_end|>":
            token.update(flags)
    (path / "tokenizer.json").write_text(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))


def test_control_tokens_that_are_not_flagged_special_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"does not flag <\|im_end\|> as special"):
        ChatFormat(reloaded(tokenizer, tmp_path, special=False))


def test_control_tokens_that_strip_what_is_beside_them_are_refused(tokenizer, tmp_path):
    stripping = reloaded(tokenizer, tmp_path, rstrip=True)
    with pytest.raises(ValueError, match="strips or adds characters"):
        ChatFormat(with_template(stripping, TEMPLATE))


@pytest.mark.oracle
def test_a_tool_conversation_equals_the_template_that_trl_carries(chat, tokenizer):
    from importlib.resources import files

    template = files("trl").joinpath("chat_templates/qwen3_vl.jinja").read_text()
    image = {"type": "image"}
    messages = [
        {"role": "system", "content": "Search."},
        {"role": "user", "content": [image, {"type": "text", "text": "Which "}, image, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "<tool_call>\n{}\n</tool_call>"},
        {"role": "tool", "content": [{"type": "text", "text": "one "}, image]},
        {"role": "tool", "content": [image, {"type": "text", "text": " two"}]},
        {"role": "assistant", "content": "<answer>x</answer>"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
        {"role": "assistant", "content": "y"},
    ]
    rendered = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    tools = [
        "\n<tool_response>\none ",
        PICTURE,
        "\n</tool_response>\n<tool_response>\n",
        PICTURE,
        " two\n</tool_response>",
    ]
    chunks = [
        chat.prompt("Search.", [PICTURE, "Which ", PICTURE, "?"]).tokens,
        chat.turn(messages[2]["content"]),
        chat.observation([tools[0].removeprefix("\n"), *tools[1:]]).tokens,
        chat.turn(messages[5]["content"]),
        chat.observation(["And?"]).tokens,
        chat.turn("y"),
        np.array(chat.encode("\n")),
    ]
    assert list(itertools.chain(*chunks)) == tokenizer.encode(rendered, add_special_tokens=False)
