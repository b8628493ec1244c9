"""The SGLang adapter against a small server that answers as documented, and as broken servers have been seen to."""

from __future__ import annotations

import numpy as np
import pytest
from aiohttp import web

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.types import FatalSearchError, StopReason
from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout import GeneratorError, TurnEnd, run_episodes
from hypereyes_jax.rollout.servers.server import PromptLimits
from hypereyes_jax.rollout.servers.sglang import SGLangServer
from hypereyes_jax.rollout.servers.weight_check import EchoError
from tests.rollout.paced import SETTINGS, PacedEpisode, question
from tests.serving import SGLangMimic, mimicked, text

PIXELS = {"min_pixels": SETTINGS.min_pixels, "max_pixels": SETTINGS.max_pixels}
UNTRUNCATED = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=5)


@pytest.fixture
async def mimic(config):
    async with mimicked(SGLangMimic(config, PIXELS), SGLangServer, context=400, attempts=2) as mimic:
        yield mimic


async def test_episodes_run_on_a_server_with_images_and_exact_token_ids(mimic, chat):
    (out,) = await run_episodes(mimic.client, [PacedEpisode(question(0))], chat, UNTRUNCATED, [0])
    assert out.result.stop is StopReason.ANSWERED
    record = np.concatenate([chunk.tokens for chunk in out.chunks]).tolist()
    last = mimic.requests[-1]
    assert record[: len(last["input_ids"])] == last["input_ids"]
    assert len(last["image_data"]) == 3
    sampled = [chunk for chunk in out.chunks if isinstance(chunk, SampledChunk)]
    assert sampled[0].tokens[-1] in chat.stop_ids
    assert len(sampled[1].tokens) == 5
    np.testing.assert_array_equal(sampled[0].logp_truncated, sampled[0].logp_full)


async def test_truncated_sampling_leaves_the_truncated_log_prob_unknown(mimic, chat):
    session = await mimic.client.open(0, SamplingConfig(top_p=0.7, max_new_tokens=3), ())
    turn = await session.turn(chat.prompt("", ["a"]))
    assert np.isnan(turn.sampled.logp_truncated).all()
    assert np.isfinite(turn.sampled.logp_full).all()
    assert mimic.requests[0]["sampling_params"]["top_k"] == -1


async def test_adapters_have_versioned_names_and_the_echo_tells_the_base_model_from_them(mimic, tmp_path):
    client, probe = mimic.client, np.arange(30, 40, dtype=np.int32)
    expected = np.full(9, -0.25, np.float32)
    with pytest.raises(EchoError, match="differ by 1"):
        await client.echo_check(probe, expected)
    for version in (1, 2, 3):
        await client.push_adapter(tmp_path, version)
        assert await client.echo_check(probe, expected) == 0
        assert mimic.requests[-1]["lora_path"].startswith(f"policy-v{version}-")
    assert [name.rpartition("-")[0] for name in mimic.adapters] == ["policy-v2", "policy-v3"]
    await client.push_adapter(tmp_path, 3)  # the reply to the first push may have been lost
    assert len(mimic.adapters) == 2
    session = await client.open(0, UNTRUNCATED, ())
    chunk = (await session.turn(text(5))).sampled
    assert set(chunk.version.tolist()) == {3}


async def test_passing_failures_are_retried_and_lasting_ones_mask_the_rollout(mimic, chat):
    mimic.failures = 1
    session = await mimic.client.open(0, UNTRUNCATED, ())
    assert (await session.turn(text(5))).end is TurnEnd.LENGTH
    mimic.failures = 5
    (out,) = await run_episodes(mimic.client, [PacedEpisode(question(0))], chat, UNTRUNCATED, [0])
    assert out.result.stop is StopReason.INFRASTRUCTURE
    assert "503" in out.result.why


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda reply: reply["meta_info"].update(prompt_tokens=9), "resized"),
        (lambda reply: reply["meta_info"]["output_token_logprobs"].pop(0), "do not belong"),
        (lambda reply: reply["output_ids"].reverse(), "do not belong"),
        (
            lambda reply: reply["meta_info"].update(finish_reason={"type": "stop", "matched": 7}),
            "strips the stop token",
        ),
        (lambda reply: reply["meta_info"].update(finish_reason={"type": "abort"}), "abort"),
        (lambda reply: reply["output_ids"].__setitem__(0, -5), "does not have"),
        (lambda reply: reply["output_ids"].__setitem__(0, 10**9), "does not have"),
        (lambda reply: reply["output_ids"].__setitem__(0, "7"), "does not have"),
        (lambda reply: reply["output_ids"].extend([30] * 9), "at most 5"),
        (
            lambda reply: reply["meta_info"]["output_token_logprobs"][0].__setitem__(0, float("nan")),
            "not a log-prob",
        ),
        (lambda reply: reply["meta_info"]["output_token_logprobs"][0].__setitem__(0, 9.0), "not a log-prob"),
        (lambda reply: reply["meta_info"]["output_token_logprobs"][0].__setitem__(0, None), "not a log-prob"),
        (lambda reply: reply.pop("meta_info"), "documented form"),
        (lambda reply: reply["meta_info"].update(finish_reason=None), "documented form"),
    ],
)
async def test_replies_that_contradict_themselves_are_refused(mimic, spoil, message):
    mimic.spoil = spoil
    session = await mimic.client.open(0, UNTRUNCATED, ())
    with pytest.raises(GeneratorError, match=message):
        await session.turn(text(5))


async def test_a_turn_that_goes_on_after_a_stop_token_is_refused(mimic):
    session = await mimic.client.open(0, UNTRUNCATED, (7,))

    def spoil(reply):
        reply["output_ids"][0] = reply["meta_info"]["output_token_logprobs"][0][1] = 7

    mimic.spoil = spoil
    with pytest.raises(GeneratorError, match="after a stop token"):
        await session.turn(text(5))


@pytest.mark.parametrize("pairs", [None, {}, [None], [[None, 30], [10**400, 31]], [[None, 30], ["x", 31]], "xyz"])
async def test_an_echo_that_cannot_be_read_is_a_failure_of_the_server(mimic, pairs):
    mimic.spoil = lambda reply: reply["meta_info"].update(input_token_logprobs=pairs)
    with pytest.raises((GeneratorError, EchoError)):
        await mimic.client.echo_check(np.array([30, 31], np.int32), np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"success": False, "error_message": "rank 64 is too large"}, "rank 64 is too large"),
        ({"error": {"message": "no such path"}}, "no such path"),
        ("<html>Sign in</html>", "no such server gives"),
    ],
)
async def test_a_push_that_failed_under_http_200_is_told(mimic, tmp_path, monkeypatch, reply, words):
    async def post(*_, **__):
        return reply

    monkeypatch.setattr(mimic.client, "_post", post)
    with pytest.raises(GeneratorError, match=words):
        await mimic.client.push_adapter(tmp_path, 1)
    assert mimic.client.adapter is None


@pytest.mark.parametrize("value", ["\x1b[2J" * 9, "x" * 100_000, {"a": "y" * 100_000}, [[[]]]])
async def test_what_a_server_sends_makes_no_long_or_harmful_message(mimic, value):
    for spoil in (
        lambda reply: reply["meta_info"].update(prompt_tokens=value),
        lambda reply: reply["meta_info"].update(finish_reason={"type": value}),
        lambda reply: reply["meta_info"]["output_token_logprobs"][0].__setitem__(0, value),
        lambda reply: reply["output_ids"].__setitem__(0, value),
    ):
        session = await mimic.client.open(0, UNTRUNCATED, ())
        mimic.spoil = spoil
        with pytest.raises(GeneratorError) as raised:
            await session.turn(text(5))
        assert len(str(raised.value)) < 300
        assert str(raised.value).isprintable()


async def test_a_conversation_that_does_not_fit_ends_before_it_is_sent(mimic):
    session = await mimic.client.open(0, SamplingConfig(top_p=1.0, max_new_tokens=50), ())
    assert (await session.turn(text(380))).end is TurnEnd.CONTEXT
    assert (await session.turn(text(1))).sampled is None
    assert len(mimic.requests) == 1


async def test_a_push_after_a_restart_or_by_another_run_is_of_these_weights(mimic, tmp_path):
    client = mimic.client
    (tmp_path / "adapter_model.safetensors").write_bytes(b"first")
    await client.push_adapter(tmp_path, 1)
    first = client.adapter
    (tmp_path / "adapter_model.safetensors").write_bytes(b"another run's")
    await client.push_adapter(tmp_path, 1)
    assert client.adapter != first  # the server holds the first under a name of its own
    mimic.adapters.clear()  # it was started anew
    await client.push_adapter(tmp_path, 2)
    assert list(mimic.adapters) == [client.adapter]


async def test_the_key_goes_out_as_a_bearer_token_and_a_refused_one_ends_the_run(mimic, chat):
    async with SGLangServer(
        mimic.client.url, mimic.config, api_key="k-12345", prompts=PromptLimits(400, **PIXELS)
    ) as client:

        async def before(body):
            return web.json_response({"error": {"message": "key k-12345 is not known"}}, status=401)

        mimic.before = before
        with pytest.raises(FatalSearchError, match=r"key \*\*\* is not known"):
            await run_episodes(client, [PacedEpisode(question(0))], chat, UNTRUNCATED, [0])


async def test_an_endless_reply_is_bounded(mimic, monkeypatch):
    monkeypatch.setattr("hypereyes_jax.rollout.servers.server._REPLY_BYTES", 1000)
    async with SGLangServer(mimic.client.url, mimic.config, prompts=PromptLimits(400, **PIXELS), attempts=1) as client:
        mimic.spoil = lambda reply: reply.update(text="x" * 10_000)
        session = await client.open(0, UNTRUNCATED, ())
        with pytest.raises(GeneratorError, match="more than 1,000 bytes"):
            await session.turn(text(5))
