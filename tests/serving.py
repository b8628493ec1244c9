"""Servers for tests: one in a thread of its own, and small ones that answer as SGLang and vLLM document.

The thread is for tests whose client blocks or brings its own event loop.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable

import jax
import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from hypereyes_jax.env.web.app_thread import serving_app
from hypereyes_jax.models.qwen3_vl import forward
from hypereyes_jax.processing import ContextChunk, pack_inputs, patchify
from hypereyes_jax.rollout.servers.server import GenerationServer, PromptLimits

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def served(path: str, reply: Handler) -> contextlib.AbstractContextManager[str]:
    """Answers POST requests to a path on a free port of loopback; the block is given the URL without the path."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post(path, reply)
    return serving_app(app)


def text(count: int) -> ContextChunk:
    return ContextChunk(np.arange(30, 30 + count, dtype=np.int32))


class Mimic(abc.ABC):
    """What the adapters need of a generation server.

    `failures` requests get a 503. `before` is awaited with each request, and may answer it. `spoil` changes a reply on
    its way out, in place. `scores` gives the log-probs [n - 1] of a prompt: of (its tokens [n], the tokens and images
    as they were sent, adapter); by default -0.25, or -1.25 for the base model.
    """

    def __init__(self, config, pixels):
        self.config, self.pixels = config, pixels
        self.requests: list[dict] = []
        self.adapters: dict[str, str] = {}
        self.failures = 0
        self.before = None
        self.spoil = lambda reply: None
        self.scores = lambda prompt, sent, images, adapter: np.full(len(prompt) - 1, -0.25 if adapter else -1.25)

    @property
    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post(self.endpoint, self.generate)
        for path, handler in zip(self.adapter_endpoints, (self.load, self.unload), strict=True):
            app.router.add_post(path, handler)
        return app

    endpoint: str
    adapter_endpoints: tuple[str, str]

    @abc.abstractmethod
    def answer(self, body) -> dict | web.Response:
        """The reply, before it is spoilt."""

    async def load(self, request):
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return web.json_response({"error": {"message": "has already been loaded"}}, status=400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def unload(self, request):
        if self.adapters.pop((await request.json())["lora_name"], None) is None:
            return web.json_response({"error": {"message": "The lora adapter cannot be found."}}, status=404)
        return web.Response(text="Success")

    async def generate(self, request):
        body = await request.json()
        self.requests.append(body)
        if self.failures:
            self.failures -= 1
            return web.Response(status=503, text="warming up")
        reply = (self.before and await self.before(body)) or self.answer(body)
        if isinstance(reply, web.Response):
            return reply
        self.spoil(reply)
        return web.json_response(reply)

    def sampled(self, given, sampling, limit):
        """(tokens, whether a stop id ended them): every other turn ends with one."""
        tokens, stops = [30 + (len(given) + i) % 200 for i in range(limit)], sampling.get("stop_token_ids", [])
        if stops and len(self.requests) % 2:
            return [*tokens[:2], stops[0]], True
        return tokens, False

    def read(self, tokens, uris):
        """(tokens with image tokens expanded, the images as patches)"""
        files = [io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))) for uri in uris]
        images = [patchify(Image.open(file), self.config.vision, **self.pixels) for file in files]
        sizes = iter(len(image.patches) // self.config.vision.merge_unit for image in images)
        image = self.config.image_token_id
        return [t for token in tokens for t in ([token] * next(sizes, 1) if token == image else [token])], images


class SGLangMimic(Mimic):
    endpoint = "/generate"
    adapter_endpoints = ("/load_lora_adapter", "/unload_lora_adapter")

    def answer(self, body):
        adapter, sampling, given = body.get("lora_path"), body["sampling_params"], body["input_ids"]
        if adapter not in (None, *self.adapters):
            return web.json_response({"error": {"message": "unknown adapter"}}, status=400)
        prompt, images = self.read(given, body.get("image_data", []))
        output, stopped = self.sampled(given, sampling, sampling["max_new_tokens"])
        reason = {"type": "stop", "matched": output[-1]} if stopped else {"type": "length", "length": len(output)}
        meta = {
            "id": "x",
            "finish_reason": reason,
            "prompt_tokens": len(prompt),
            "completion_tokens": len(output),
            "output_token_logprobs": [[-0.5 - 0.01 * i, token, None] for i, token in enumerate(output)],
        }
        if body["logprob_start_len"] == 0:
            logps = [None, *self.scores(prompt, given, images, adapter).tolist()]
            ids = [0 if token == self.config.image_token_id else token for token in prompt]  # its pads, clipped
            meta["input_token_logprobs"] = [[logp, token, None] for logp, token in zip(logps, ids, strict=True)]
        return {"text": "", "output_ids": output, "meta_info": meta}


class VLLMMimic(Mimic):
    """`raw`: in vLLM's default log-prob mode. `old`: of a version that does not tell the prompt it read."""

    endpoint = "/inference/v1/generate"
    adapter_endpoints = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
    raw = old = False

    def answer(self, body):
        adapter, sampling, given = body.get("model"), body["sampling_params"], body["token_ids"]
        if adapter not in (None, *self.adapters):
            return web.json_response({"error": {"message": "The model does not exist."}}, status=404)
        prompt, images = self.read(given, [part["image_url"]["url"] for part in body.get("content_parts", [])])
        output, stopped = self.sampled(given, sampling, sampling["max_tokens"])
        alone = sampling.get("top_k") == 1 and not self.raw
        rows = []
        for i, token in enumerate(output):
            named = {"token": f"token_id:{token}"} if self.old else {"token_id": token, "rank": 1}
            rows.append({**named, "logprob": 0.0 if alone else -0.5 - 0.01 * i, "top_logprobs": []})
        reason = "stop" if stopped else "length"
        reply = {
            "request_id": "x",
            "choices": [{"index": 0, "finish_reason": reason, "token_ids": output, "logprobs": {"content": rows}}],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(output)},
            "prompt_logprobs": None,
        }
        if not self.old:
            reply["prompt_token_ids"] = prompt
        if "prompt_logprobs" in sampling:
            likeliest = {"logprob": -0.01, "rank": 1, "decoded_token": "x"}  # comes first
            scored = zip(prompt[1:], self.scores(prompt, given, images, adapter).tolist(), strict=True)
            reply["prompt_logprobs"] = [
                None,
                *({"299": likeliest, str(token): {"logprob": logp, "rank": 2}} for token, logp in scored),
            ]
        return reply


@contextlib.asynccontextmanager
async def mimicked(mimic: Mimic, client: type[GenerationServer], context=32768, **options) -> AsyncIterator[Mimic]:
    """The mimic, served; its `client` is open."""
    server = TestServer(mimic.app)
    await server.start_server()
    prompts = PromptLimits(context, **mimic.pixels)
    async with client(str(server.make_url("")), mimic.config, prompts=prompts, **options) as mimic.client:
        yield mimic
    await server.close()


def model_scores(config, params, length=None):
    """`Mimic.scores` of real weights, at temperature 1, of prompts of up to `length` tokens (none = any)."""

    @jax.jit
    def log_probs(inputs):
        return jax.nn.log_softmax(forward(params, config, inputs)[0].astype("float32"))

    def scores(prompt, sent, images, adapter):
        logp_TV = np.asarray(log_probs(pack_inputs(config, [(sent, images)], length=length)))
        return logp_TV[np.arange(len(prompt) - 1), prompt[1:]]

    return scores
