"""Slots under pressure, swaps of weights, and everything that can go wrong around an episode."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
import pytest
from PIL import Image

from hypereyes_jax.configs.rollout import SamplingConfig, SchedulerConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import StopReason
from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout import GeneratorError, RolloutLimits, Scheduler, Timeline, TurnEnd, run_episodes
from hypereyes_jax.rollout.replicas.placement import Replicas
from tests.rollout.paced import SAMPLING, SETTINGS, PacedEpisode, question, tokens

EAGER = SchedulerConfig(evict_after=0.0)


async def play(engine, episodes, chat, seeds=None, settings=None, **options):
    async with Scheduler(engine, settings) as scheduler:
        out = await run_episodes(scheduler, episodes, chat, SAMPLING, seeds or list(range(len(episodes))), **options)
    assert engine.free_slots == engine.settings.slots
    return out, scheduler.counts


@pytest.mark.parametrize("memory", [1.0, 0.0])
async def test_evicted_rollouts_go_on_as_if_nothing_had_happened(make_engine, chat, alone, memory):
    episodes = [PacedEpisode(question(n), seconds=0.05) for n in range(10)]
    settings = SchedulerConfig(evict_after=0.0)
    out, counts = await play(make_engine(offload_gib=memory), episodes, chat, settings=settings)
    assert [tokens(t) for t in out] == alone
    assert counts.evictions > 0
    assert (counts.restored > 0) == (memory > 0)
    assert (counts.reread_tokens > 0) == (memory == 0)


async def test_samples_of_a_prompt_share_one_prefill(make_engine, chat):
    def group():
        return [PacedEpisode(question(0), turns=1) for _ in range(8)]

    shared, apart = make_engine(), make_engine()
    together, _ = await play(shared, group(), chat)
    separate, _ = await play(apart, group(), chat, settings=SchedulerConfig(share_prompts=False))
    assert [tokens(t) for t in together] == [tokens(t) for t in separate]
    assert len({json.dumps(tokens(t)) for t in together}) > 1  # samples differ
    assert shared.counts.extend_tokens <= 0.2 * apart.counts.extend_tokens
    assert shared.images.encoded == apart.images.encoded == 1


async def test_a_prompt_is_read_once_however_far_apart_its_samples_are(make_engine, chat):
    """One after another, and in waves that take over all slots at once: neither leaves a sample under way to copy."""
    prompt = chat.prompt("search", ["what is number 0?"])
    once = len(prompt.tokens) - 1
    engine = make_engine()
    async with Scheduler(engine) as scheduler:
        sampled = {}
        for seed in range(3):
            session = await scheduler.open(seed, SAMPLING, ())
            sampled[seed] = (await session.turn(prompt)).sampled.tokens.tolist()
            await session.close()
        assert engine.counts.extend_tokens == once
        for _ in range(2):  # sessions that stay open: the second wave evicts the first
            sessions = [await scheduler.open(seed, SAMPLING, ()) for seed in range(SETTINGS.slots)]
            turns = await asyncio.gather(*(session.turn(prompt) for session in sessions))
            assert [turn.sampled.tokens.tolist() for turn in turns[:3]] == list(sampled.values())
        assert engine.counts.extend_tokens == once
        other = chat.prompt("search", ["what is number 1?"])
        alike = int(np.flatnonzero(other.tokens != prompt.tokens)[0])  # both begin with the same system prompt
        late = await scheduler.open(0, SAMPLING, ())
        await late.turn(other)
        assert engine.counts.extend_tokens == 2 * once - alike
        await scheduler.swap(engine.params, None, 1)  # what other weights have written is of no use
        for session in sessions:
            await session.close()
        late = await scheduler.open(0, SAMPLING, ())
        assert (await late.turn(prompt)).sampled.tokens.tolist() == sampled[0]
        assert engine.counts.extend_tokens == 3 * once - alike


async def test_a_prompt_that_begins_like_an_earlier_one_reads_the_rest_only(make_engine, chat):
    """Also behind an image: what comes after it is another prompt's, however alike its tokens are."""
    system = "search with care " * 5
    prompts = [
        chat.prompt(system, [Image.new("RGB", (64, 64), (80 * n, 9, 9)), f"what is number {n}?"]) for n in range(3)
    ]
    head = int(np.flatnonzero(prompts[0].tokens == chat.tokenizer.convert_tokens_to_ids("<|image_pad|>"))[0])
    engine, alone = make_engine(slots=1), make_engine(slots=1)
    async with Scheduler(engine) as scheduler, Scheduler(alone, SchedulerConfig(share_prompts=False)) as apart:
        for number, prompt in enumerate(prompts):
            turns = []
            for each in (scheduler, apart):
                session = await each.open(number, SAMPLING, ())
                turns.append(await session.turn(prompt))
                await session.close()
            assert turns[0].sampled.tokens.tolist() == turns[1].sampled.tokens.tolist()
            np.testing.assert_allclose(turns[0].sampled.logp_full, turns[1].sampled.logp_full, atol=1e-5)
    assert engine.counts.shared_tokens == 2 * head
    assert engine.counts.extend_tokens == alone.counts.extend_tokens - 2 * head


async def test_where_only_whole_prompts_are_shared_no_bit_depends_on_who_came_before(make_engine, chat):
    first, second = (chat.prompt("search with care " * 5, [f"what is number {n}?"]) for n in range(2))

    async def after(*prompts, whole):
        engine = make_engine(whole_prompts=whole)
        async with Scheduler(engine) as scheduler:
            for prompt in prompts:
                session = await scheduler.open(7, SAMPLING, ())
                sampled = (await session.turn(prompt)).sampled
                await session.close()
        return sampled.logp_full.tobytes(), engine.counts.shared_tokens

    wanted, _ = await after(second, whole=True)
    assert await after(first, second, whole=True) == (wanted, 0)
    assert await after(second, second, whole=True) == (wanted, len(second.tokens) - 1)
    assert (await after(first, second, whole=False))[1] > 5  # their common beginning
    assert SETTINGS.exact().whole_prompts


async def test_callback_gets_each_trajectory_as_it_ends_and_the_list_keeps_the_order(make_engine, chat):
    ended = []
    episodes = [PacedEpisode(question(0), seconds=0.5), PacedEpisode(question(1), turns=1)]
    out, _ = await play(make_engine(), episodes, chat, on_end=lambda n, t: ended.append((n, t)))
    assert [n for n, _ in ended] == [1, 0]
    assert [t for _, t in sorted(ended, key=lambda e: e[0])] == out


async def test_hung_and_slow_episodes_end_as_infrastructure_and_hold_up_nobody(make_engine, chat, alone):
    class Hung(PacedEpisode):
        async def step(self, text, truncated=False):
            await asyncio.sleep(3600)

    odd = [
        Hung(question(0)),
        Hung(question(1)),
        PacedEpisode(question(2), turns=90, seconds=0.4, with_image=False),
    ]
    fine = [PacedEpisode(question(n)) for n in range(3, 6)]
    limits = RolloutLimits(step_seconds=0.8, episode_seconds=2.0)
    out, _ = await play(make_engine(), [*odd, *fine], chat, limits=limits)
    assert [t.result.stop for t in out] == [StopReason.INFRASTRUCTURE] * 3 + [StopReason.ANSWERED] * 3
    assert "took more than 0.8 s" in out[0].result.why
    assert "its 2 s" in out[2].result.why
    assert [tokens(t) for t in out[3:]] == alone[3:6]
    assert len(tokens(out[0])) == 1  # what was sampled before is not lost


async def test_a_full_context_ends_a_rollout_with_what_it_has(make_engine, chat):
    engine = make_engine()
    (out,), _ = await play(engine, [PacedEpisode(question(1), turns=90)], chat)
    assert out.result.stop is StopReason.CONTEXT_LIMIT
    assert isinstance(out.chunks[-1], SampledChunk)
    assert len(tokens(out)) >= 2
    long = PacedEpisode(question(2))
    long.prompt = lambda: ("word " * 400,)
    (out,), _ = await play(engine, [long], chat)
    assert out.result.stop is StopReason.CONTEXT_LIMIT
    assert len(out.chunks) == 1


@pytest.mark.parametrize("closed", [True, False])
async def test_a_closed_answer_counts_though_the_context_ended_in_its_turn(make_engine, chat, closed):
    class Answering(PacedEpisode):
        async def step(self, text, truncated=False):
            return await Episode.step(self, "<answer>it</answer>", truncated)

        def answers(self, text):
            return closed

    sampling = replace(SAMPLING, max_new_tokens=400)
    async with Scheduler(make_engine()) as scheduler:
        (out,) = await run_episodes(scheduler, [Answering(question(1))], chat, sampling, [0])
    wanted = (StopReason.ANSWERED, "it") if closed else (StopReason.CONTEXT_LIMIT, None)
    assert (out.result.stop, out.result.answer) == wanted


async def test_a_turn_cut_by_the_end_of_the_context_is_not_called_truncated(make_engine, chat):
    async with Scheduler(make_engine()) as scheduler:
        sampling = SamplingConfig(max_new_tokens=400)
        session = await scheduler.open(0, sampling, ())
        turn = await session.turn(chat.prompt("", ["a"]))
        assert turn.end is TurnEnd.CONTEXT
        assert session.sequence.length == SETTINGS.context
        short = await scheduler.open(0, SAMPLING, ())
        assert (await short.turn(chat.prompt("", ["a"]))).end is TurnEnd.LENGTH


async def test_truncated_turns_are_told_to_the_episode_and_stop_ids_end_a_turn(make_engine, chat):
    episode = PacedEpisode(question(1), turns=2)
    await play(make_engine(), [episode], chat)
    assert episode.texts[0][1]  # six tokens, none of them a stop id
    async with Scheduler(make_engine()) as scheduler:
        session = await scheduler.open(1, SAMPLING, ())
        first = (await session.turn(chat.prompt("", ["a"]))).sampled.tokens
        stop = int(first[2])
        again = await scheduler.open(1, SAMPLING, (stop,))
        turn = await again.turn(chat.prompt("", ["a"]))
        assert turn.end is TurnEnd.STOP
        np.testing.assert_array_equal(turn.sampled.tokens, first[: list(first).index(stop) + 1])


async def test_an_image_that_cannot_be_read_ends_one_rollout_only(make_engine, chat):
    class Sliver(PacedEpisode):
        async def step(self, text, truncated=False):
            self.texts.append((text, truncated))
            return (Image.new("RGB", (2000, 3)), "found it")

    broken = PacedEpisode(question(1))
    broken.prompt = lambda: (Image.new("RGB", (2000, 3)), "what?")
    out, _ = await play(make_engine(), [Sliver(question(0)), broken, PacedEpisode(question(2))], chat)
    stops = [t.result.stop for t in out]
    assert stops == [StopReason.UNREADABLE, StopReason.INFRASTRUCTURE, StopReason.ANSWERED]
    assert "aspect ratio" in out[0].result.why


async def test_a_cancelled_turn_frees_its_slot_and_its_session_is_done(make_engine, chat):
    engine = make_engine()
    async with Scheduler(engine) as scheduler:
        session = await scheduler.open(0, SamplingConfig(max_new_tokens=150), ())
        task = asyncio.create_task(session.turn(chat.prompt("", ["a"])))
        while not session.parts:  # noqa: ASYNC110 - nothing announces a decode call
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RuntimeError, match="cancelled"):
            await session.turn(chat.prompt("", ["a"]))
        await session.close()
        await session.close()
        other = await scheduler.open(1, SAMPLING, ())
        await other.turn(chat.prompt("", ["a"]))
        assert engine.free_slots == SETTINGS.slots - 1


async def test_an_exception_of_the_callback_cancels_all_and_frees_all(make_engine, chat):
    def fail(index, trajectory):
        raise LookupError("stop here")

    engine = make_engine()
    episodes = [PacedEpisode(question(n), turns=1 if n == 3 else 50, seconds=0.05) for n in range(6)]
    with pytest.raises(ExceptionGroup) as caught:
        await play(engine, episodes, chat, on_end=fail)
    assert caught.group_contains(LookupError)
    assert engine.free_slots == SETTINGS.slots


async def test_a_failing_device_reaches_those_who_wait(make_engine, chat, monkeypatch):
    engine = make_engine()

    def fail(*_):
        raise MemoryError("device")

    monkeypatch.setattr(engine, "decode", fail)
    with pytest.raises(ExceptionGroup) as caught:
        await play(engine, [PacedEpisode(question(0))], chat)
    (error,) = caught.value.exceptions
    assert isinstance(error.__cause__, MemoryError)


async def test_an_engine_has_one_scheduler_at_a_time(make_engine):
    engine = make_engine()
    async with Scheduler(engine):
        with pytest.raises(RuntimeError, match="has a scheduler already"):
            await Scheduler(engine).__aenter__()
    async with Scheduler(engine):
        pass


async def test_a_generator_that_is_down_masks_the_rollout(chat):
    class Down:
        async def open(self, seed, sampling, stop_ids):
            return self

        async def turn(self, context):
            raise GeneratorError("connection refused")

        async def close(self):
            pass

    (out,) = await run_episodes(Down(), [PacedEpisode(question(0))], chat, SAMPLING, [0])
    assert out.result.stop is StopReason.INFRASTRUCTURE
    assert "connection refused" in out.result.why


@pytest.mark.parametrize("mode", ["continue", "abort", "finish"])
async def test_weights_swap_between_steps_and_every_token_tells_its_version(make_engine, chat, params, mode):
    engine = make_engine()
    nudged = jax.tree.map(lambda x: x * 1.1, params)
    async with Scheduler(engine) as scheduler:
        sessions = [await scheduler.open(n, SamplingConfig(max_new_tokens=60), ()) for n in range(3)]
        prompt = chat.prompt("", ["a question"])
        turns = [asyncio.create_task(session.turn(prompt)) for session in sessions]
        while not all(session.parts for session in sessions):  # noqa: ASYNC110 - nothing announces a decode call
            await asyncio.sleep(0)
        swap = asyncio.create_task(scheduler.swap(nudged, None, 1, mode))
        if mode == "finish":
            done = [await turn for turn in turns]
            assert not swap.done()
            newcomer = asyncio.create_task(scheduler.open(9, SAMPLING, ()))
            for session in sessions:
                await session.close()
            await swap
            await newcomer
            assert all((turn.sampled.version == 0).all() for turn in done)
            return
        await swap
        done = [await turn for turn in turns]
        after = await scheduler.open(0, SamplingConfig(max_new_tokens=60), ())
        fresh = (await after.turn(prompt)).sampled
    versions = np.stack([turn.sampled.version for turn in done])
    assert (fresh.version == 1).all()
    if mode == "continue":
        assert (versions[:, 0] == 0).all()
        assert (versions[:, -1] == 1).all()
    else:  # sampled anew from its start, exactly as if the new weights had been there before
        assert (versions == 1).all()
        np.testing.assert_array_equal(done[0].sampled.tokens, fresh.tokens)
        assert scheduler.counts.aborted_turns == 3


async def test_weights_swap_within_a_pause(make_engine, chat, params):
    async with Scheduler(make_engine()) as scheduler:
        session = await scheduler.open(0, SamplingConfig(max_new_tokens=60), ())
        turn = asyncio.create_task(session.turn(chat.prompt("", ["a question"])))
        while not session.parts:  # noqa: ASYNC110 - nothing announces a decode call
            await asyncio.sleep(0)
        async with scheduler.paused():
            sampled = sum(len(part.tokens) for part in session.parts)
            await asyncio.wait_for(scheduler.swap(jax.tree.map(lambda x: x * 1.1, params), None, 1), 60)
            await asyncio.sleep(0.1)
            assert sum(len(part.tokens) for part in session.parts) == sampled
        versions = (await turn).sampled.version
    assert (versions[0], versions[-1]) == (0, 1)


async def test_rollouts_too_far_behind_the_weights_end_as_stale(make_engine, chat, params):
    one_at_a_time = asyncio.Lock()

    class Swapping(PacedEpisode):
        async def step(self, text, truncated=False):
            async with one_at_a_time:
                await scheduler.swap(params, None, scheduler.engine.version + 1, "continue")
            return await super().step(text, truncated)

    async with Scheduler(make_engine(), SchedulerConfig(max_staleness=1)) as scheduler:
        out = await run_episodes(
            scheduler, [Swapping(question(0), turns=2), Swapping(question(1), turns=9)], chat, SAMPLING, [0, 1]
        )
    assert out[1].result.stop is StopReason.INFRASTRUCTURE
    assert "weights" in out[1].result.why
    assert scheduler.counts.stale >= 1


async def test_replicas_share_the_work_and_give_the_same_tokens(make_engine, chat, alone):
    engines = [make_engine(), make_engine()]
    async with Scheduler(engines[0]) as a, Scheduler(engines[1]) as b:
        episodes = [PacedEpisode(question(n)) for n in range(10)]
        out = await run_episodes(Replicas([a, b], group=2), episodes, chat, SAMPLING, list(range(10)))
    assert [tokens(t) for t in out] == alone
    assert all(engine.counts.decode_tokens > 50 for engine in engines)


async def test_the_timeline_is_a_trace_with_every_kind_of_span(make_engine, chat, tmp_path):
    timeline = Timeline()
    engine = make_engine()
    async with Scheduler(engine, EAGER, timeline) as scheduler:
        episodes = [PacedEpisode(question(n), seconds=0.05) for n in range(8)]
        await run_episodes(scheduler, episodes, chat, SAMPLING, list(range(8)), timeline=timeline)
    timeline.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {(e["name"], e["ph"]) for e in events}
    assert {("extend", "X"), ("decode", "X"), ("parked", "X"), ("search", "X"), ("evicted", "i")} <= names
    tracks = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {"device", "slot 0", "rollout 7"} <= tracks
    by_track: dict[int, list[tuple[float, float]]] = {}
    slots = {e["tid"] for e in events if e["name"] == "thread_name" and e["args"]["name"].startswith("slot")}
    for event in events:
        if event["ph"] == "X" and event["tid"] in slots:
            by_track.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in by_track.values():  # a slot does one thing at a time
        spans.sort()
        assert all(b[0] >= a[1] - 1 for a, b in pairwise(spans))
    assert timeline.seconds()["rollout"]["search"] >= 16 * 0.05


def test_replicas_share_a_timeline_and_its_shares_are_of_them_all(tmp_path):
    timeline = Timeline()
    one, other = timeline.replica(0), timeline.replica(1)
    one.span("device", "decode", 1.0, 3.0)
    other.span("device", "extend", 1.0, 2.0)
    other.span("device", "decode", 4.0, 5.0)
    other.span("slot 3", "decode", 4.0, 5.0)
    assert timeline.utilisation() == {"extend": 1 / 6, "decode": 0.5, "waiting": 0.0, "idle": pytest.approx(1 / 3)}
    timeline.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert names == ["device 0", "device 1", "slot 1.3"]


async def test_a_suspended_engine_samples_the_same_once_it_has_weights_again(make_engine, chat, params, alone):
    engine = make_engine()
    async with Scheduler(engine) as scheduler:
        session = await scheduler.open(0, SAMPLING, ())
        await session.turn(chat.prompt("", ["a"]))
        with pytest.raises(ValueError, match="1 slots are in use"):
            engine.suspend()
        await session.close()
    engine.suspend()
    assert engine.params is None
    engine.set_weights(params, None, 1)
    episodes = [PacedEpisode(question(n)) for n in range(10)]
    out, _ = await play(engine, episodes, chat)
    assert [tokens(t) for t in out] == alone
