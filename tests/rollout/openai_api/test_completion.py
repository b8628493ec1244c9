import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout import SamplingConfig
from hypereyes_jax.rollout.openai_api.completion import TextStream, complete, logprob_entries
from hypereyes_jax.rollout.openai_api.requests import BadRequest
from hypereyes_jax.rollout.scheduler import Scheduler
from tests.rollout.openai_api.scripted import ScriptedGenerator

PROMPT = ContextChunk(np.arange(30, 40, dtype=np.int32))


def collect(generator, *arguments, **options):
    """Texts of the pieces, then the whole completion."""

    async def run():
        *pieces, done = [piece async for piece in complete(generator, *arguments, **options)]
        return *(piece.text for piece in pieces), done

    return asyncio.run(run())


def test_pieces_put_together_are_the_text(chat):
    text = "what is found? ünïcødé 🦜 it"
    *pieces, done = collect(ScriptedGenerator(chat, text), chat, PROMPT, SamplingConfig(), 0)
    assert "".join(pieces) == done.text == text
    assert len(pieces) > 3
    assert "\ufffd" not in "".join(pieces)
    assert done.finish_reason == "stop"
    assert len(done.tokens) == len(done.logps) == len(chat.turn(text))


@pytest.mark.parametrize(
    ("stops", "kept"), [(("found",), "what is "), (("zzz", " is"), "what"), (("nowhere",), "what is found")]
)
def test_a_stop_text_ends_the_reply_before_it(chat, stops, kept):
    generator = ScriptedGenerator(chat, "what is found")
    *pieces, done = collect(generator, chat, PROMPT, SamplingConfig(), 0, stops)
    assert "".join(pieces) == done.text == kept
    assert done.finish_reason == "stop"
    assert generator.open_sessions == 0
    assert chat.decode(done.tokens[: done.text_tokens - 1]) != kept
    assert chat.decode(done.tokens[: done.text_tokens]).startswith(kept)


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_a_stream_never_takes_back_what_it_gave(chat, text, stops, size):
    tokens = chat.turn(text)
    whole = chat.decode(tokens)
    stream = TextStream(chat, stops)
    pieces = [stream.add(tokens[start : start + size]) for start in range(0, len(tokens), size)]
    pieces.append(stream.add((), last=True))
    ends = [place for stop in stops if (place := whole.find(stop)) >= 0]
    assert "".join(pieces) == stream.text == whole[: min(ends, default=len(whole))]


def test_a_tool_call_is_held_back(chat):
    text = 'look <tool_call>{"name": "f"}</tool_call>'
    *pieces, done = collect(ScriptedGenerator(chat, text), chat, PROMPT, SamplingConfig(), 0, calls=True)
    assert "".join(pieces) == "look "
    assert done.text == text


def test_the_engine_s_tokens_come_as_they_are_sampled_and_equal_a_whole_turn(chat, make_engine):
    sampling = SamplingConfig(temperature=0.8, max_new_tokens=24)

    async def run():
        async with Scheduler(make_engine()) as scheduler:
            session = await scheduler.open(7, sampling, chat.stop_ids)
            whole = await session.turn(PROMPT)
            await session.close()
            pieces = [piece async for piece in complete(scheduler, chat, PROMPT, sampling, 7)]
            return whole, pieces

    whole, (*pieces, done) = asyncio.run(run())
    assert done.tokens == whole.sampled.tokens.tolist()
    np.testing.assert_array_equal(np.float32(done.logps), whole.sampled.logp_full)
    assert "".join(pieces) == done.text


def test_closing_the_iterator_gives_the_slot_back(chat, make_engine):
    sampling = SamplingConfig(temperature=0.8, max_new_tokens=150)

    async def run():
        engine = make_engine()
        async with Scheduler(engine) as scheduler:
            pieces = complete(scheduler, chat, PROMPT, sampling, 3)
            await anext(pieces)
            taken = engine.settings.slots - engine.free_slots
            await pieces.aclose()
            for _ in range(100):
                if engine.free_slots == engine.settings.slots:
                    break
                await asyncio.sleep(0.02)
            return taken, engine.free_slots

    assert asyncio.run(run()) == (1, 4)


def test_a_prompt_that_does_not_fit_is_refused(chat, make_engine):
    async def run():
        async with Scheduler(make_engine()) as scheduler:
            long = ContextChunk(np.full(500, 40, np.int32))
            return [piece async for piece in complete(scheduler, chat, long, SamplingConfig(), 0)]

    with pytest.raises(BadRequest, match="longer than this server's context"):
        asyncio.run(run())


def test_bytes_of_tokens_put_together_are_the_text_where_a_token_is_a_part_of_a_character(chat):
    text = "it 🦜 ünï"
    tokens = chat.encode(text)
    entries = logprob_entries(chat, tokens, [-0.5] * len(tokens))
    assert any(entry["token"] == "\ufffd" for entry in entries)
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == text
