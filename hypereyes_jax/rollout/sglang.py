"""An SGLang server as a generator: token ids in, token ids and log-probs out, adapters pushed by version.

Uses the server's native endpoints `/generate`, `/load_lora_adapter` and `/unload_lora_adapter` (docs.sglang.io, "Native
API"). The whole conversation goes with every turn; the server's own prefix cache makes that cheap.
"""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import numpy as np
from PIL import Image
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.processing import MAX_PIXELS, MIN_PIXELS, ContextChunk, SampledChunk, smart_resize
from hypereyes_jax.rollout.echo import EchoError
from hypereyes_jax.rollout.episodes import GeneratorError
from hypereyes_jax.rollout.types import SamplingConfig, Turn, TurnEnd


class _TransientError(Exception):
    """A reply that may be better next time."""


class SGLangServer:
    """A `Generator`. Use as `async with SGLangServer(...) as server:`.

    SGLang reports log-probs at the sampling temperature over the full vocabulary. Under truncation (top_p, top_k,
    min_p) the behaviour log-prob is therefore unknown and recorded as NaN, which no loss can take for a number;
    without truncation the two are one. Sampling on a server is not reproducible from the seed.

    Args:
      url: like "http://host:30000".
      config: the model that the server runs; prompts are checked to have the length there that they have here.
      context: tokens a conversation may have.
      concurrency: requests under way at a time.
      timeout: seconds for one request.
      attempts: tries of a request before it counts as failed.
      kept_adapters: versions that stay loaded; at least one more than the staleness allowed.
    """

    def __init__(
        self,
        url: str,
        config: Qwen3VLConfig,
        *,
        context: int = 32768,
        concurrency: int = 64,
        timeout: float = 600.0,
        attempts: int = 3,
        kept_adapters: int = 2,
        min_pixels: int = MIN_PIXELS,
        max_pixels: int = MAX_PIXELS,
        max_images: int = 50,
    ):
        self.url = url.rstrip("/")
        self.config, self.context, self.max_images = config, context, max_images
        self.version = 0
        self.adapter: str | None = None
        self._pixels = min_pixels, max_pixels
        self._gate = asyncio.Semaphore(concurrency)
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._attempts = attempts
        self._adapters: list[str] = []
        self._kept = kept_adapters
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> SGLangServer:
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def open(self, seed: int, sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> SGLangSeat:
        """A conversation. `seed` has no effect (see above)."""
        return SGLangSeat(self, sampling, stop_ids)

    async def push_adapter(self, path: Path, version: int) -> None:
        """Loads a PEFT adapter from a directory that the server can read; requests from now on use it.

        Each version gets a name of its own, since the server's prefix cache is keyed by the name. Raises GeneratorError
        if the server refuses it; the adapter before stays in use then.
        """
        name = f"policy-v{version}"
        await self.post("load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        self._adapters.append(name)
        self.adapter, self.version = name, version
        while len(self._adapters) > self._kept:
            await self.post("unload_lora_adapter", {"lora_name": self._adapters.pop(0)})

    async def echo_check(self, tokens: np.ndarray, expected: np.ndarray, tolerance: float = 0.05) -> float:
        """Compares the server's log-probs of given tokens with those of the weights it should have.

        A request that names no adapter, or one that is not loaded, may be answered by the base model without a word.

        Args:
          tokens: int32 [n] of text.
          expected: float32 [n - 1], from `echo.expected_logps` on the learner's side.
          tolerance: servers compute in bfloat16.

        Returns:
          The largest difference.

        Raises:
          EchoError: it is above `tolerance`, or the server saw other tokens.
        """
        sampling = {"temperature": 1.0, "max_new_tokens": 0}
        reply = await self.generate(tokens.tolist(), [], sampling, logprob_start_len=0)
        rows = reply["meta_info"]["input_token_logprobs"][1:]
        if [row[1] for row in rows] != tokens[1:].tolist():
            raise EchoError(f"the server scored {len(rows)} tokens other than the {len(tokens) - 1} it was sent")
        error = float(np.abs(np.array([row[0] for row in rows], np.float32) - expected).max())
        if not error <= tolerance:
            raise EchoError(
                f"log-probs differ by {error:.3g} (tolerance {tolerance:g}): the server does not run {self.adapter}"
            )
        return error

    async def generate(
        self, tokens: list[int], images: list[str], sampling: dict[str, Any], logprob_start_len: int = -1
    ) -> dict[str, Any]:
        """One call of `/generate`. Raises GeneratorError."""
        request: dict[str, Any] = {
            "input_ids": tokens,
            "sampling_params": {"skip_special_tokens": False, **sampling},
            "return_logprob": True,
            "logprob_start_len": logprob_start_len,
        }
        if images:
            request["image_data"] = images
        if self.adapter is not None:
            request["lora_path"] = self.adapter
        return await self.post("generate", request)

    async def post(self, endpoint: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Posts JSON, again after failures that may pass. Raises GeneratorError."""
        if self._session is None:
            raise RuntimeError("the client is not open; use it as `async with SGLangServer(...)`")
        passing = (aiohttp.ClientError, TimeoutError, _TransientError)
        tries = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0, jitter=0.1),
            retry=retry_if_exception_type(passing),
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    async with self._gate, self._session.post(f"{self.url}/{endpoint}", json=payload) as reply:
                        if reply.status >= 500 or reply.status == 429:
                            raise _TransientError(f"{reply.status}: {(await reply.text())[:200]}")
                        if reply.status >= 400:
                            raise GeneratorError(f"{endpoint} refused ({reply.status}): {(await reply.text())[:200]}")
                        return await reply.json()
        except passing as error:
            raise GeneratorError(f"{endpoint} failed {self._attempts} times: {type(error).__name__} {error}") from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def visual_tokens(self, image: Image.Image) -> int:
        """Visual tokens of an image after resizing. Raises ValueError for one that can't be used."""
        multiple = self.config.vision.pixel_multiple
        height, width = smart_resize(image.height, image.width, multiple, *self._pixels)
        return (height // multiple) * (width // multiple)


class SGLangSeat:
    """One conversation with the server."""

    def __init__(self, server: SGLangServer, sampling: SamplingConfig, stop_ids: tuple[int, ...]):
        self._server, self._sampling, self._stop_ids = server, sampling, stop_ids
        self._tokens: list[int] = []  # one image token an image
        self._images: list[str] = []
        self._expanded = 0  # tokens with visual ones counted one by one

    async def turn(self, context: ContextChunk) -> Turn:
        """Reads a prompt or an observation, and samples. Raises GeneratorError if the server fails or is wrong."""
        server, sampling = self._server, self._sampling
        try:
            visual = sum(server.visual_tokens(image) - 1 for image in context.images)
        except ValueError as error:
            return Turn(None, TurnEnd.UNREADABLE, str(error))
        expanded = self._expanded + len(context.tokens) + visual
        if expanded >= server.context or len(self._images) + len(context.images) > server.max_images:
            return Turn(None, TurnEnd.CONTEXT)
        self._tokens += context.tokens.tolist()
        self._images += [_data_uri(image) for image in context.images]
        self._expanded = expanded
        limit = min(sampling.max_new_tokens, server.context - expanded)
        version = server.version
        reply = await server.generate(
            self._tokens,
            self._images,
            {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or -1,
                "min_p": sampling.min_p,
                "max_new_tokens": limit,
                "stop_token_ids": list(self._stop_ids),
            },
        )
        tokens, logps, stopped = self._checked(reply)
        self._tokens += tokens
        self._expanded += len(tokens)
        truncated = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0 or sampling.temperature == 0
        chunk = SampledChunk(
            np.array(tokens, np.int32),
            np.full(len(tokens), np.nan, np.float32) if truncated else logps,
            logps,
            np.full(len(tokens), version, np.int32),
        )
        if stopped:
            return Turn(chunk, TurnEnd.STOP)
        return Turn(chunk, TurnEnd.LENGTH if limit == sampling.max_new_tokens else TurnEnd.CONTEXT)

    async def close(self) -> None:
        """Nothing is held on the server."""

    def _checked(self, reply: dict[str, Any]) -> tuple[list[int], np.ndarray, bool]:
        """(tokens, full log-probs, whether a stop id ended them), with what servers are known to get wrong refused."""
        meta = reply["meta_info"]
        if meta["prompt_tokens"] != self._expanded:
            raise GeneratorError(
                f"the server's prompt has {meta['prompt_tokens']} tokens, ours {self._expanded}: images are resized "
                "or expanded in another way there; set its min_pixels and max_pixels to ours"
            )
        tokens = [int(token) for token in reply["output_ids"]]
        rows = meta["output_token_logprobs"]
        if [row[1] for row in rows] != tokens or not tokens:
            raise GeneratorError(f"{len(rows)} log-probs do not belong to the {len(tokens)} tokens sampled")
        reason = meta["finish_reason"]["type"]
        if reason not in ("stop", "length"):
            raise GeneratorError(f"the server ended a turn with {meta['finish_reason']}")
        if reason == "stop" and tokens[-1] not in self._stop_ids:
            raise GeneratorError("the server strips the stop token, so its log-prob is missing")
        return tokens, np.array([row[0] for row in rows], np.float32), reason == "stop"


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    (image if image.mode == "RGB" else image.convert("RGB")).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
