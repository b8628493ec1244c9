"""Chat templates of strangers are rendered apart, with limits on their time, memory and text."""

import random
import subprocess
from importlib import resources

import pytest

from hypereyes_jax.processing import ChatFormat, chat_template
from hypereyes_jax.processing.chat_template import TemplateFailure, render
from hypereyes_jax.processing.tokenizer import load_tokenizer

TALK = [{"role": "user", "content": [{"type": "text", "text": "Which?"}]}]
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ 'x' * 10**10 }}", "more than 512 MiB of memory"),
        ("{% macro a(n) %}{{ a(n + 1) }}{% endmacro %}{{ a(0) }}", "recursion"),
        ("{{ 'x' * 30000 }}", "more than 20,000 characters"),
    ],
)
def test_a_template_without_end_fails_by_the_limit_that_it_meets(template, words, monkeypatch):
    monkeypatch.setattr(chat_template, "_SECONDS", 1)
    with pytest.raises(TemplateFailure, match=words):
        render(template, [TALK], {})


def test_a_checkpoint_whose_template_does_not_end_is_refused(monkeypatch):
    monkeypatch.setattr(chat_template, "_SECONDS", 1)
    hostile = load_tokenizer(str(resources.files("hypereyes_jax.assets") / "base"))
    hostile.chat_template = ENDLESS
    with pytest.raises(ValueError, match=r"chat template can't render .*needs more computing time than 1 s"):
        ChatFormat(hostile)


def test_a_template_is_rendered_once_with_the_tokens_it_names(monkeypatch):
    template = "{{ bos_token }}{% for message in messages %}{{ message.role }}{% endfor %}{{ add_generation_prompt }}"
    assert render(template, [TALK, TALK * 2], {"bos_token": "<s>"}) == ["<s>userTrue", "<s>useruserTrue"]
    monkeypatch.setattr(subprocess, "run", None)
    assert render(template, [TALK, TALK * 2], {"bos_token": "<s>"}) == ["<s>userTrue", "<s>useruserTrue"]


def test_the_template_of_this_package_starts_no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    shipped = chat_template._SHIPPED.read_text()
    assert render(shipped, [TALK], {})[0].endswith("<|im_start|>assistant\n")


def expression(draw, depth):
    """A random expression, of which many are large, deep or wrong."""
    if depth == 0 or draw.random() < 0.1:
        return draw.choice(["1", "'x'", "messages", "10**9", "[0]", "{}", "x", "none", "range(99999)", "'%09999999d'"])
    inner = lambda: expression(draw, depth - 1)  # noqa: E731
    return draw.choice([
        lambda: f"({inner()} * {inner()})", lambda: f"({inner()} ** {inner()})", lambda: f"({inner()} ~ {inner()})",
        lambda: f"({inner()} | list)", lambda: f"({inner()} | string | replace('', 'y' * 99999))",
        lambda: f"({inner()} | tojson)", lambda: f"({inner()} % {inner()})", lambda: f"({inner()} | join({inner()}))",
        lambda: f"({inner()} | center(10**8))", lambda: f"({inner()} + {inner()})", lambda: f"{inner()}[{inner()}]",
    ])()  # fmt: skip


def program(draw, depth):
    """A random template of loops, macros and expressions."""
    if depth == 0:
        return "{{ " + expression(draw, draw.randint(0, 4)) + " }}"
    inner = program(draw, depth - 1)
    return draw.choice([
        "{% for i in range(3000) %}" + inner + "{% endfor %}",
        "{% if messages %}" + inner + "{% endif %}",
        "{% macro m(n) %}" + inner + "{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% for i in messages recursive %}" + inner + "{{ loop([1]) }}{% endfor %}",
        "{% set s = " + expression(draw, 3) + " %}" + inner,
        inner + inner,
        inner + "{%",
        "\x00" + inner,
    ])  # fmt: skip


@pytest.mark.chaos
def test_random_templates_are_rendered_or_fail_in_bounds(monkeypatch):
    monkeypatch.setattr(chat_template, "_SECONDS", 1)
    draw, failures = random.Random(0), 0
    for _ in range(150):
        try:
            (text,) = render(program(draw, draw.randint(0, 4)), [TALK], {})
        except TemplateFailure:
            failures += 1
        else:
            assert len(text) <= 20_000
    assert 0 < failures < 150
