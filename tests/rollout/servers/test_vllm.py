"""The vLLM adapter against a small server that answers as documented, and as servers in other modes or versions do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.types import StopReason
from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout import GeneratorError, TurnEnd, run_episodes
from hypereyes_jax.rollout.servers.vllm import VLLMServer
from hypereyes_jax.rollout.servers.weight_check import EchoError
from tests.rollout.paced import SETTINGS, PacedEpisode, question
from tests.serving import VLLMMimic, mimicked, text

PIXELS = {"min_pixels": SETTINGS.min_pixels, "max_pixels": SETTINGS.max_pixels}
UNTRUNCATED = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=5)
NUCLEUS = SamplingConfig(temperature=0.8, top_p=0.9, max_new_tokens=5)


@pytest.fixture
async def mimic(config):
    async with mimicked(VLLMMimic(config, PIXELS), VLLMServer, context=400, attempts=2) as mimic:
        yield mimic


@pytest.mark.parametrize("old", [False, True])
async def test_episodes_run_on_a_server_with_images_and_exact_token_ids(mimic, chat, old):
    mimic.old = old
    (out,) = await run_episodes(mimic.client, [PacedEpisode(question(0))], chat, UNTRUNCATED, [0])
    assert out.result.stop is StopReason.ANSWERED
    record = np.concatenate([chunk.tokens for chunk in out.chunks]).tolist()
    last = mimic.requests[-1]
    assert record[: len(last["token_ids"])] == last["token_ids"]  # one image token an image: the server expands them
    assert len(last["content_parts"]) == 3
    sampled = [chunk for chunk in out.chunks if isinstance(chunk, SampledChunk)]
    assert {len(chunk.tokens) for chunk in sampled} == {3, 5}
    (stopped, *_) = [chunk for chunk in sampled if len(chunk.tokens) == 3]
    assert stopped.tokens[-1] in chat.stop_ids
    for chunk in sampled:
        np.testing.assert_array_equal(chunk.logp_truncated, chunk.logp_full)
        np.testing.assert_allclose(chunk.logp_full, -0.5 - 0.01 * np.arange(len(chunk.tokens)), rtol=1e-6)


async def test_truncated_sampling_keeps_the_truncated_log_prob_and_greedy_sampling_none(mimic):
    turn = await (await mimic.client.open(0, NUCLEUS, ())).turn(text(5))
    assert np.isfinite(turn.sampled.logp_truncated).all()
    assert np.isnan(turn.sampled.logp_full).all()
    assert mimic.requests[-1]["sampling_params"]["top_p"] == 0.9
    greedy = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=5)
    turn = await (await mimic.client.open(0, greedy, ())).turn(text(5))
    assert np.isnan(turn.sampled.logp_truncated).all()
    assert np.isnan(turn.sampled.logp_full).all()


async def test_a_server_with_raw_log_probs_is_refused_before_anything_is_sampled(mimic):
    mimic.raw = True
    with pytest.raises(GeneratorError, match="processed_logprobs"):
        await mimic.client.open(0, UNTRUNCATED, ())
    mimic.raw = False
    for _ in range(3):
        await mimic.client.open(0, UNTRUNCATED, ())
    assert len(mimic.requests) == 2  # asked once of a good server


async def test_adapters_have_versioned_names_and_the_echo_tells_the_base_model_from_them(mimic, tmp_path):
    client, probe = mimic.client, np.arange(30, 40, dtype=np.int32)
    expected = np.full(9, -0.25, np.float32)
    with pytest.raises(EchoError, match="differ by 1"):
        await client.echo_check(probe, expected)
    for version in (1, 2, 3):
        await client.push_adapter(tmp_path, version)
        assert await client.echo_check(probe, expected) == 0
        assert mimic.requests[-1]["model"].startswith(f"policy-v{version}-")
    assert [name.rpartition("-")[0] for name in mimic.adapters] == ["policy-v2", "policy-v3"]
    await client.push_adapter(tmp_path, 3)  # the reply to the first push may have been lost
    assert len(mimic.adapters) == 2
    turn = await (await client.open(0, UNTRUNCATED, ())).turn(text(5))
    assert set(turn.sampled.version.tolist()) == {3}
    mimic.adapters.clear()
    with pytest.raises(GeneratorError, match="does not exist"):
        await client.echo_check(probe, expected)


async def test_passing_failures_are_retried_and_lasting_ones_mask_the_rollout(mimic, chat):
    mimic.failures = 1
    session = await mimic.client.open(0, UNTRUNCATED, ())
    mimic.failures = 1
    assert (await session.turn(text(5))).end is TurnEnd.LENGTH
    mimic.failures = 5
    (out,) = await run_episodes(mimic.client, [PacedEpisode(question(0))], chat, UNTRUNCATED, [0])
    assert out.result.stop is StopReason.INFRASTRUCTURE
    assert "503" in out.result.why


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda reply: reply["usage"].update(prompt_tokens=9), "resized"),
        (lambda reply: reply["prompt_token_ids"].reverse(), "another prompt"),
        (lambda reply: reply["choices"][0]["logprobs"]["content"].pop(), "do not belong"),
        (lambda reply: reply["choices"][0].update(logprobs=None), "do not belong"),
        (lambda reply: reply["choices"][0].update(finish_reason="stop"), "strips the stop token"),
        (lambda reply: reply["choices"][0].update(finish_reason="abort"), "abort"),
    ],
)
async def test_replies_that_contradict_themselves_are_refused(mimic, spoil, message):
    session = await mimic.client.open(0, UNTRUNCATED, ())
    mimic.spoil = spoil
    with pytest.raises(GeneratorError, match=message):
        await session.turn(text(5))


@pytest.mark.parametrize("content", [None, [], [{}, {}], [{"logprob": None}], [{"logprob": "x"}], [{"logprob": 3.0}]])
async def test_a_server_whose_log_probs_cannot_be_read_is_refused_and_no_defect_of_ours(mimic, content, monkeypatch):
    async def generate(*_):
        return {"choices": [{"logprobs": {"content": content}}]}

    monkeypatch.setattr(mimic.client, "generate", generate)
    monkeypatch.setattr(mimic.client, "_mode_is_right", False)
    with pytest.raises(GeneratorError):
        await mimic.client.open(0, SamplingConfig(), ())


async def test_a_server_that_cannot_be_sampled_from_masks_its_rollouts_and_says_why(mimic, chat):
    mimic.raw = True
    (out,) = await run_episodes(mimic.client, [PacedEpisode(question(0))], chat, UNTRUNCATED, [0])
    assert out.result.stop is StopReason.INFRASTRUCTURE
    assert "--logprobs-mode processed_logprobs" in out.result.why


@pytest.mark.parametrize("token", [math.inf, 40.5, "40", None, [40]])
async def test_tokens_of_log_probs_that_are_none_are_refused(mimic, token):
    session = await mimic.client.open(0, UNTRUNCATED, ())
    mimic.spoil = lambda reply: reply["choices"][0]["logprobs"]["content"][0].update(token_id=token)
    with pytest.raises(GeneratorError):
        await session.turn(text(5))
