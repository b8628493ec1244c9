"""What was read of other people's JSON can be written again, or is refused as a ValueError."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypereyes_jax.env.web.untrusted import encodable, json_object, json_or_none, parse_json


@given(
    st.recursive(st.text(st.characters(), max_size=4), lambda x: st.lists(x) | st.dictionaries(st.text(), x)),
    st.booleans(),
)
def test_what_was_read_can_be_written(value, escaped):
    text = json.dumps(value, ensure_ascii=escaped)
    for raw in (text, text.encode("utf-8", "surrogatepass")):
        read = parse_json(raw)
        json.dumps(read, ensure_ascii=False).encode()
    if text == encodable(text) and "\\ud" not in text:
        assert read == value


@pytest.mark.parametrize("raw", ["", "{", "[" * 100_000, "9" * 5_000, b"\xff\xfe\x00", '"\\ud800' + "[" * 9])
def test_what_is_no_json_is_a_value_error(raw):
    with pytest.raises(ValueError):  # noqa: PT011 (json's own kinds)
        parse_json(raw)
    assert json_or_none(raw) is None


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here it is:\n```json\n{"a": {"b": "\\ud83d"}}\n```', {"a": {"b": "?"}}),
        ("[1]", None),
        ("} {", None),
        ('{"a": 1} or {"a": 2}', None),
        ("", None),
        ('The set {x} gives {"a": 1}.', {"a": 1}),
        ('{"a": "\\ud83d"}\nNote the {braces}', {"a": "?"}),
        ('<think>{"a": 0}</think>{"a": 1}', {"a": 1}),
        ('[THINK]{"a": 0}[/THINK]\n```json\n{"a": 1}\n```', {"a": 1}),
        ('<think>{"a": 0}', None),
        ("{" * 100_000, None),
        ('{"a":' * 100_000, None),
    ],
)
def test_the_object_of_a_reply_may_stand_in_a_code_block_or_among_words_or_behind_thoughts(reply, value):
    assert json_object(reply) == value
