"""Rows are foreign: whatever JSON they hold, they are read or refused by place, and nothing else happens."""

import json

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.sources.columns import NAMES
from hypereyes_jax.errors import UserError

OTHERS = (
    "reward_model extra_info level1_qa observations turns response history input output img_1 meta captions "
    "options choices A B target".split()
)
COLUMNS = sorted({column for names in NAMES.values() for column in names} | set(OTHERS))
CALL = '<tool_call>{"name": "search", "arguments": {"query": 3}}</tool_call>'
WORDS = "x <image> <video> [1] { pics/0.png ../x http://127.0.0.1/x data:, /9j/AA <think>a</think> \\boxed{{a}".split()
TEXTS = st.sampled_from(["", '["a"]', "\0", CALL, *WORDS])
KEYS = st.sampled_from(
    "role content from value type text image url path bytes name arguments function query bbox".split()
)
ROLES = st.sampled_from("system user assistant tool tool_call human gpt function_call observation".split())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2000) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.sampled_from(COLUMNS), inner, max_size=4),
    max_leaves=10,
)
CALLS = st.fixed_dictionaries(
    {"name": st.sampled_from(["search", "image_search", "crop"])},
    optional={"arguments": st.dictionaries(st.sampled_from("query bbox image area input".split()), VALUES, max_size=3)},
)
MESSAGES = st.fixed_dictionaries(
    {"role": ROLES}, optional={"content": VALUES, "tool_calls": st.lists(CALLS | VALUES, max_size=2)}
)


@given(
    st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=5),
    st.none() | st.lists(MESSAGES, max_size=5),
    st.sampled_from([open_questions, open_examples]),
)
@example({"reward_model": {}, "aliases": None}, None, open_questions)  # no prompt
@example({"question": "x", "answer": "A", "options": {"A": [], "B": 2.5}}, None, open_questions)
@example({}, [{"role": "system", "content": [{"type": []}]}], open_questions)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_is_read_or_refused(tmp_path, row, messages, opens):
    path = tmp_path / "any.jsonl"
    path.write_text(json.dumps(row | ({} if messages is None else {"messages": messages})))
    try:
        with opens(path, cache=tmp_path / "cache") as source:
            list(source)
    except UserError as refusal:
        error = refusal
    else:
        return
    assert str(path) in str(error)
