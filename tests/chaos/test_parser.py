"""Fuzzed turns of a model, up to a megabyte each, against the parser."""

import random
import time

import pytest

from hypereyes_jax.env import count_completion, parse_turn

pytestmark = pytest.mark.chaos

PIECES = [
    "<reason>", "</reason>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>",
    "<think ", "< ana", "<Inner_thought",
    "<|im_end|>", "<|im_start|>assistant\n", "<", ">", "{", "}", "[", "]", '"', "\\", "\\ud800", ",", ":", " ", "\n",
    '{"name": "text_search", "arguments": {"input": ["a"]}}', '"image_search"', '"area": [[0, 0, 1, 1]],', "null",
    "1e999", "0.5,", "9" * 50, "x" * 200, "é", "\U0001f600", "\x00", '{"a":', '[["q",', "|",
]  # fmt: skip


def turn(draw: random.Random) -> str:
    """A text of 10 characters to 1 MB; most are short, every hundredth is long."""
    size = int(10 ** draw.uniform(4, 6)) if draw.random() < 0.01 else int(10 ** draw.uniform(1, 4))
    if draw.random() < 0.3:  # one short motif over and over, the worst for a reader that looks ahead
        motif = "".join(draw.choices(PIECES, k=draw.randint(1, 4)))
        text = motif * (size // len(motif) + 1)
    else:
        pieces = draw.choices(PIECES, k=min(size, 50_000))
        text = "".join(pieces) * (size // 50_000 + 1)
    return text[:size]


def test_100_000_fuzzed_turns_of_up_to_a_megabyte_take_less_than_50_ms_each():
    draw = random.Random(0)
    slowest, longest = 0.0, 0
    for number in range(100_000):
        text = "".join(draw.choices(PIECES)) * 100_000 if number % 5_000 == 0 else turn(draw)
        text = text[:1_000_000]
        started = time.thread_time()  # of this thread: other programs on the machine don't count
        parsed = parse_turn(text)
        slowest = max(slowest, time.thread_time() - started)
        longest = max(longest, len(text))
        assert parsed.invocations >= 0
        if number % 1_000 == 0:
            count_completion(text)
    print(f"slowest {slowest * 1000:.1f} ms, longest turn {longest:,} characters")
    assert longest >= 900_000
    assert slowest < 0.05
