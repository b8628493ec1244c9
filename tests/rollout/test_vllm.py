"""The vLLM adapter against a small server that answers as documented, and as servers in other modes or versions do."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from hypereyes_jax.env.types import StopReason
from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout import GeneratorError, SamplingConfig, TurnEnd, run_episodes
from hypereyes_jax.rollout.echo import EchoError
from hypereyes_jax.rollout.vllm import VLLMServer
from tests.rollout.paced import SETTINGS, PacedEpisode, question

PIXELS = {"min_pixels": SETTINGS.min_pixels, "max_pixels": SETTINGS.max_pixels}
UNTRUNCATED = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=5)
NUCLEUS = SamplingConfig(temperature=0.8, top_p=0.9, max_new_tokens=5)


class Mimic:
    """What the adapter needs of vLLM. `spoil` changes a choice or the reply on its way out."""

    def __init__(self, config):
        self.config = config
        self.requests: list[dict] = []
        self.adapters: dict[str, str] = {}
        self.failures = 0
        self.raw = self.old = False
        self.spoil = lambda reply: None
        self.app = web.Application(client_max_size=1 << 24)
        self.app.router.add_post("/inference/v1/generate", self.generate)
        self.app.router.add_post("/v1/load_lora_adapter", self.load)
        self.app.router.add_post("/v1/unload_lora_adapter", self.unload)

    async def load(self, request):
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return web.json_response({"error": {"message": "has already been loaded"}}, status=400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text=f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def unload(self, request):
        del self.adapters[(await request.json())["lora_name"]]
        return web.Response(text="Success")

    async def generate(self, request):
        body = await request.json()
        self.requests.append(body)
        if self.failures:
            self.failures -= 1
            return web.Response(status=503, text="warming up")
        if body.get("model") not in (None, *self.adapters):
            return web.json_response({"error": {"message": "The model does not exist."}}, status=404)
        sampling, sent = body["sampling_params"], body["token_ids"]
        count = sampling["max_tokens"]
        output, reason = [30 + (len(sent) + i) % 200 for i in range(count)], "length"
        stops = sampling.get("stop_token_ids", [])
        if stops and len(self.requests) % 2:
            output, reason = [*output[:2], stops[0]], "stop"
        sizes = iter(self.visual(part["image_url"]["url"]) for part in body.get("content_parts", []))
        image = self.config.image_token_id
        prompt = [t for token in sent for t in ([token] * next(sizes) if token == image else [token])]
        alone = sampling.get("top_k") == 1 and not self.raw
        rows = []
        for i, token in enumerate(output):
            logp = 0.0 if alone else -0.5 - 0.01 * i
            named = {"token": f"token_id:{token}"} if self.old else {"token_id": token, "rank": 1}
            rows.append({**named, "logprob": logp, "top_logprobs": []})
        reply = {
            "request_id": "x",
            "choices": [{"index": 0, "finish_reason": reason, "token_ids": output, "logprobs": {"content": rows}}],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(output)},
            "prompt_logprobs": None,
        }
        if not self.old:
            reply["prompt_token_ids"] = prompt
        if "prompt_logprobs" in sampling:
            shift = 0.0 if body.get("model") else 1.0
            other = {"logprob": -0.01, "rank": 1, "decoded_token": "x"}  # the likeliest, which comes first
            reply["prompt_logprobs"] = [
                None,
                *({"299": other, str(token): {"logprob": -0.25 - shift, "rank": 2}} for token in sent[1:]),
            ]
        self.spoil(reply)
        return web.json_response(reply)

    def visual(self, uri):
        image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
        return VLLMServer("", self.config, **PIXELS).visual_tokens(image)


@pytest.fixture
async def mimic(config):
    mimic = Mimic(config)
    server = TestServer(mimic.app)
    await server.start_server()
    async with VLLMServer(str(server.make_url("")), config, context=400, attempts=2, **PIXELS) as client:
        mimic.client = client
        yield mimic
    await server.close()


def text(count):
    return ContextChunk(np.arange(30, 30 + count, dtype=np.int32))


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
        np.testing.assert_array_equal(chunk.logp_behaviour, chunk.logp_full)
        np.testing.assert_allclose(chunk.logp_full, -0.5 - 0.01 * np.arange(len(chunk.tokens)), rtol=1e-6)


async def test_truncated_sampling_keeps_the_behaviour_log_prob_and_greedy_sampling_none(mimic):
    turn = await (await mimic.client.open(0, NUCLEUS, ())).turn(text(5))
    assert np.isfinite(turn.sampled.logp_behaviour).all()
    assert np.isnan(turn.sampled.logp_full).all()
    assert mimic.requests[-1]["sampling_params"]["top_p"] == 0.9
    greedy = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=5)
    turn = await (await mimic.client.open(0, greedy, ())).turn(text(5))
    assert np.isnan(turn.sampled.logp_behaviour).all()
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
        assert mimic.requests[-1]["model"] == f"policy-v{version}"
    assert list(mimic.adapters) == ["policy-v2", "policy-v3"]
    with pytest.raises(GeneratorError, match="already been loaded"):
        await client.push_adapter(tmp_path, 3)
    turn = await (await client.open(0, UNTRUNCATED, ())).turn(text(5))
    assert set(turn.sampled.version.tolist()) == {3}
    mimic.adapters.clear()
    with pytest.raises(GeneratorError, match="does not exist"):
        await client.echo_check(probe, expected)


async def test_passing_failures_are_retried_and_lasting_ones_mask_the_rollout(mimic, chat):
    mimic.failures = 1
    seat = await mimic.client.open(0, UNTRUNCATED, ())
    mimic.failures = 1
    assert (await seat.turn(text(5))).end is TurnEnd.LENGTH
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
    seat = await mimic.client.open(0, UNTRUNCATED, ())
    mimic.spoil = spoil
    with pytest.raises(GeneratorError, match=message):
        await seat.turn(text(5))
