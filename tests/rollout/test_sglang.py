"""The SGLang adapter against a small server that answers as documented, and as broken servers have been seen to."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from hypereyes_jax.env.types import StopReason
from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout import GeneratorError, SamplingConfig, TurnEnd, run_episodes
from hypereyes_jax.rollout.echo import EchoError
from hypereyes_jax.rollout.sglang import SGLangServer
from tests.rollout.paced import SETTINGS, PacedEpisode, question

PIXELS = {"min_pixels": SETTINGS.min_pixels, "max_pixels": SETTINGS.max_pixels}
UNTRUNCATED = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=5)


class Mimic:
    """What the adapter needs of SGLang. `spoil` changes a reply on its way out; `failures` requests get a 503."""

    def __init__(self, config):
        self.config = config
        self.requests: list[dict] = []
        self.adapters: dict[str, str] = {}
        self.failures = 0
        self.spoil = lambda reply: reply
        self.app = web.Application()
        self.app.router.add_post("/generate", self.generate)
        self.app.router.add_post("/load_lora_adapter", self.load)
        self.app.router.add_post("/unload_lora_adapter", self.unload)

    async def load(self, request):
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return web.json_response({"success": False, "error_message": "already loaded"}, status=400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.json_response({"success": True})

    async def unload(self, request):
        del self.adapters[(await request.json())["lora_name"]]
        return web.json_response({"success": True})

    async def generate(self, request):
        body = await request.json()
        self.requests.append(body)
        if self.failures:
            self.failures -= 1
            return web.Response(status=503, text="warming up")
        if body.get("lora_path") not in (None, *self.adapters):
            return web.json_response({"error": {"message": "unknown adapter"}}, status=400)
        sampling = body["sampling_params"]
        count = sampling["max_new_tokens"]
        output = [30 + (len(body["input_ids"]) + i) % 200 for i in range(count)]
        reason = {"type": "length", "length": count}
        stops = sampling.get("stop_token_ids", [])
        if stops and len(self.requests) % 2:
            output, reason = [*output[:2], stops[0]], {"type": "stop", "matched": stops[0]}
        prompt = len(body["input_ids"]) + sum(self.visual(uri) - 1 for uri in body.get("image_data", []))
        meta = {
            "id": "x",
            "finish_reason": reason,
            "prompt_tokens": prompt,
            "completion_tokens": len(output),
            "output_token_logprobs": [[-0.5 - 0.01 * i, token, None] for i, token in enumerate(output)],
        }
        if body["logprob_start_len"] == 0:
            shift = 0.0 if body.get("lora_path") else 1.0
            ids = body["input_ids"]
            scored = [[-0.25 - shift, token, None] for token in ids[1:]]
            meta["input_token_logprobs"] = [[None, ids[0], None], *scored]
        return web.json_response(self.spoil({"text": "", "output_ids": output, "meta_info": meta}))

    def visual(self, uri):
        image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
        return SGLangServer("", self.config, **PIXELS).visual_tokens(image)


@pytest.fixture
async def mimic(config):
    mimic = Mimic(config)
    server = TestServer(mimic.app)
    await server.start_server()
    async with SGLangServer(str(server.make_url("")), config, context=400, attempts=2, **PIXELS) as client:
        mimic.client = client
        yield mimic
    await server.close()


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
    np.testing.assert_array_equal(sampled[0].logp_behaviour, sampled[0].logp_full)


async def test_truncated_sampling_leaves_the_behaviour_log_prob_unknown(mimic, chat):
    seat = await mimic.client.open(0, SamplingConfig(top_p=0.7, max_new_tokens=3), ())
    turn = await seat.turn(chat.prompt("", ["a"]))
    assert np.isnan(turn.sampled.logp_behaviour).all()
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
        assert mimic.requests[-1]["lora_path"] == f"policy-v{version}"
    assert list(mimic.adapters) == ["policy-v2", "policy-v3"]
    with pytest.raises(GeneratorError, match="already loaded"):
        await client.push_adapter(tmp_path, 3)
    seat = await client.open(0, UNTRUNCATED, ())
    chunk = (await seat.turn(_text(5))).sampled
    assert set(chunk.version.tolist()) == {3}


def _text(count):
    from hypereyes_jax.processing import ContextChunk

    return ContextChunk(np.arange(30, 30 + count, dtype=np.int32))


async def test_passing_failures_are_retried_and_lasting_ones_mask_the_rollout(mimic, chat):
    mimic.failures = 1
    seat = await mimic.client.open(0, UNTRUNCATED, ())
    assert (await seat.turn(_text(5))).end is TurnEnd.LENGTH
    mimic.failures = 5
    (out,) = await run_episodes(mimic.client, [PacedEpisode(question(0))], chat, UNTRUNCATED, [0])
    assert out.result.stop is StopReason.INFRASTRUCTURE
    assert "503" in out.result.why


def _set(path, value):
    def spoil(reply):
        reply = json.loads(json.dumps(reply))
        *parents, name = path.split(".")
        node = reply
        for parent in parents:
            node = node[parent]
        node[name] = value(node[name])
        return reply

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_set("meta_info.prompt_tokens", lambda n: n + 3), "resized"),
        (_set("meta_info.output_token_logprobs", lambda rows: rows[1:]), "do not belong"),
        (_set("output_ids", lambda ids: [ids[0] + 1, *ids[1:]]), "do not belong"),
        (_set("meta_info.finish_reason", lambda _: {"type": "stop", "matched": 7}), "strips the stop token"),
        (_set("meta_info.finish_reason", lambda _: {"type": "abort"}), "abort"),
    ],
)
async def test_replies_that_contradict_themselves_are_refused(mimic, spoil, message):
    mimic.spoil = spoil
    seat = await mimic.client.open(0, UNTRUNCATED, ())
    with pytest.raises(GeneratorError, match=message):
        await seat.turn(_text(5))


async def test_a_conversation_that_does_not_fit_ends_before_it_is_sent(mimic):
    seat = await mimic.client.open(0, SamplingConfig(top_p=1.0, max_new_tokens=50), ())
    assert (await seat.turn(_text(380))).end is TurnEnd.CONTEXT
    assert (await seat.turn(_text(1))).sampled is None
    assert len(mimic.requests) == 1
