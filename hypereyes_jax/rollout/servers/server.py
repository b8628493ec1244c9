"""What generation servers have in common: token ids over HTTP, retries, conversations, adapters by version."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from hypereyes_jax.configs.images import MAX_PIXELS, MIN_PIXELS
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.media.images import embedded, png_bytes
from hypereyes_jax.env.types import FatalSearchError, SearchError
from hypereyes_jax.env.web.http import Address, HttpLimits, JsonHttp, check_status
from hypereyes_jax.env.web.retries import RetryPolicy, retrying
from hypereyes_jax.env.web.service_words import lacks_credit, service_words, wrong_key
from hypereyes_jax.env.web.untrusted import encodable, one_line
from hypereyes_jax.processing import ContextChunk, SampledChunk, smart_resize
from hypereyes_jax.rollout.engine import Sampled
from hypereyes_jax.rollout.episodes import GeneratorError, OnSampled
from hypereyes_jax.rollout.servers.weight_check import EchoError
from hypereyes_jax.rollout.types import Turn, TurnEnd

_REPLY_BYTES = 64 << 20  # log-probs of a context of 100,000 tokens are some megabytes
_REFUSED = {400, 409, 413, 415, 422}
_NOT_HELD = ("not found", "not loaded", "not exist", "cannot be found")  # what servers say of an adapter to unload
# vLLM writes -9999 for a log-prob of minus infinity. Models' logits lie within some hundreds.
LOWEST_LOG_PROB = -1000.0
ROUNDING = 1e-3  # a log-prob may be so far above 0: float32's logit - log-sum-exp, of logits in the hundreds


class PromptMismatch(GeneratorError):
    """The server read another prompt than it was sent."""


@dataclass(frozen=True)
class PromptLimits:
    """What a conversation may hold, and the areas that its images are resized to: as the server was started with."""

    context: int = 32768  # tokens, visual ones counted one by one
    max_images: int = 50
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS


class ServerCompletion(NamedTuple):
    """What a server sampled."""

    tokens: list[int]
    logp_truncated: np.ndarray  # float32; NaN where the server does not tell it
    logp_full: np.ndarray  # float32; NaN where the server does not tell it
    stopped: bool  # by a stop id, which is the last token


class ServerConversation:
    """All that a server is sent of one rollout: token ids with one image token an image, and the images."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.images: list[str] = []  # PNG data URIs
        self.visual: list[int] = []  # visual tokens of each image

    @property
    def expanded(self) -> int:
        """Tokens with visual ones counted one by one."""
        return len(self.tokens) + sum(self.visual) - len(self.visual)

    def read(self, context: ContextChunk, visual: list[int]) -> None:
        """Adds a prompt or an observation. `visual`: visual tokens of each of its images."""
        self.tokens += context.tokens.tolist()
        self.images += [_data_uri(image) for image in context.images]
        self.visual += visual

    def expanded_tokens(self, image: int) -> list[int]:
        """The tokens as a server is to read them, `image` (the image token) repeated for each visual token."""
        sizes = iter(self.visual)
        return [t for token in self.tokens for t in ([token] * next(sizes, 0) if token == image else [token])]


class GenerationServer(abc.ABC):
    """A `Generator` over HTTP. Use as `async with`.

    The whole conversation goes with every turn; the server's own prefix cache makes that cheap. Sampling on a server is
    not reproducible from the seed.

    Args:
      url: like "http://host:30000".
      config: the model that the server runs; prompts are checked to have the length there that they have here.
      api_key: sent as a bearer token; none = no login but that of the URL, if it has one.
      concurrency: requests under way at a time.
      timeout: seconds for one request, in which an answer that is not streamed shows no progress.
      attempts: tries of a request before it counts as failed. A server that says when to come back is waited for.
      kept_adapters: versions that stay loaded; at least one more than the staleness allowed.
    """

    load_endpoint: str
    unload_endpoint: str

    def __init__(
        self,
        url: str,
        config: Qwen3VLConfig,
        *,
        api_key: str = "",
        prompts: PromptLimits = PromptLimits(),
        concurrency: int = 64,
        timeout: float = 600.0,
        attempts: int = 3,
        kept_adapters: int = 2,
    ):
        address = Address.of(url.rstrip("/"))
        self.url, self._where = address.url, address.where
        self.config, self.prompts = config, prompts
        self.version = 0
        self.adapter: str | None = None
        self._gate = asyncio.Semaphore(concurrency)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else dict(address.headers)
        self._http = JsonHttp(HttpLimits(idle=timeout, reply_bytes=_REPLY_BYTES), headers)
        self._retries = RetryPolicy(attempts, backoff=(0.1, 0.5))
        self._opened = False
        self._adapters: list[str] = []
        self._kept = kept_adapters

    async def __aenter__(self) -> Self:
        self._opened = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened = False
        await self._http.aclose()

    @abc.abstractmethod
    async def sample(
        self, conversation: ServerConversation, sampling: SamplingConfig, stop_ids: tuple[int, ...], limit: int
    ) -> ServerCompletion:
        """Continues a conversation by at most `limit` tokens. Raises GeneratorError if the server fails or is wrong."""

    @abc.abstractmethod
    async def score(self, conversation: ServerConversation) -> list[tuple[int, float]]:
        """(token, log-prob) of all expanded tokens but the first, as the server reports them: not to be trusted.

        What it reports at visual tokens means nothing. Log-probs are at temperature 1, whatever the request says:
        neither SGLang (`input_token_logprobs`) nor vLLM (`prompt_logprobs`, in any log-prob mode) applies the
        temperature to given tokens.

        Raises GeneratorError, as PromptMismatch if the prompt has another length there; whatever `documented_form`
        takes for it if the reply has another form than documented.
        """

    async def open(self, seed: int, sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> ServerSession:
        """A conversation. `seed` has no effect (see above)."""
        return ServerSession(self, sampling, stop_ids)

    async def push_adapter(self, path: Path, version: int) -> None:
        """Loads a PEFT adapter from a directory that the server can read; requests from now on use it.

        The name holds the version, since the server's prefix cache is keyed by the name, and a digest of the files, so
        that a server that another run has used can't answer with that run's weights. A push may be repeated: an adapter
        that the server holds already (the reply to an earlier push was lost) is in use then, and one that it no longer
        holds (it was started anew) need not be unloaded.

        Raises GeneratorError if the server refuses it; the adapter before stays in use then.
        """
        name = f"policy-v{version}-{await asyncio.to_thread(adapter_digest, path)}"
        try:
            await self._change_adapter(self.load_endpoint, {"lora_name": name, "lora_path": str(path)})
        except GeneratorError as error:
            if "already" not in str(error):
                raise
        if name not in self._adapters:
            self._adapters.append(name)
        self.adapter, self.version = name, version
        while len(self._adapters) > self._kept:
            try:
                await self._change_adapter(self.unload_endpoint, {"lora_name": self._adapters[0]})
            except GeneratorError as error:
                if not any(words in str(error) for words in _NOT_HELD):
                    raise
            self._adapters.pop(0)

    async def echo_check(self, tokens: np.ndarray, expected: np.ndarray, tolerance: float = 0.05) -> float:
        """Compares the server's log-probs of given tokens with those of the weights it should have.

        A request that names no adapter, or one that is not loaded, may be answered by the base model without a word.

        Args:
          tokens: int32 [n] of text.
          expected: float32 [n - 1], from `weight_check.expected_logps` on the learner's side.
          tolerance: servers compute in bfloat16.

        Returns:
          The largest difference.

        Raises:
          EchoError: it is above `tolerance`, or the server saw other tokens.
          GeneratorError: the server fails, or its reply can't be read.
        """
        conversation = ServerConversation()
        conversation.read(ContextChunk(tokens), [])
        with documented_form():
            pairs = [(token, logp) for token, logp in await self.score(conversation)]
        if [token for token, _ in pairs] != tokens[1:].tolist():
            raise EchoError(f"the server scored {len(pairs)} tokens other than the {len(tokens) - 1} it was sent")
        error = float(np.abs(read_log_probs([logp for _, logp in pairs]) - expected).max())
        if not error <= tolerance:
            raise EchoError(
                f"log-probs differ by {error:.3g} (tolerance {tolerance:g}): the server does not run {self.adapter}"
            )
        return error

    async def post(self, endpoint: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Posts JSON and reads JSON, again after failures that may pass. Raises GeneratorError."""
        reply: dict[str, Any] = await self._post(endpoint, payload)
        return reply

    async def _change_adapter(self, endpoint: str, payload: dict[str, Any]) -> None:
        """Raises GeneratorError for what is no success: a failure told under HTTP 200, or a page of something else."""
        reply = await self._post(endpoint, payload, text=True)
        failed = isinstance(reply, dict) and (reply.get("success") is False or bool(reply.get("error")))
        if failed or (isinstance(reply, str) and reply.lstrip().startswith("<")):
            words = (isinstance(reply, dict) and service_words(reply)) or "a reply that no such server gives"
            raise GeneratorError(f"{endpoint} refused: {words}")

    async def _post(self, endpoint: str, payload: dict[str, Any], *, text: bool = False) -> Any:
        """Posts JSON, again after failures that may pass.

        Raises:
          GeneratorError: the server fails or refuses the request.
          FatalSearchError: no later request can work, either (the key is refused, nothing is at this address).
        """
        if not self._opened:
            raise RuntimeError(f"the client is not open; use it as `async with {type(self).__name__}(...)`")

        async def once() -> Any:
            async with self._gate:
                reply = await self._http.request("POST", f"{self.url}/{endpoint}", body=payload, text=text)
            refused = reply.status in _REFUSED or (reply.worked and reply.status in (403, 404))
            if refused and not lacks_credit(reply.data) and not wrong_key(reply.data):
                raise GeneratorError(f"{endpoint} refused ({reply.status}): {reply.words}")
            data = check_status(reply, self._where)
            if not text and not isinstance(data, dict):
                message = f"no JSON object but a {type(data).__name__}"
                raise SearchError(message, transient=True, kind="bad_reply")
            return data

        try:
            return await retrying(self._retries)(once)
        except FatalSearchError:
            raise
        except SearchError as error:
            kind = "TimeoutError" if error.kind == "timeout" else error.kind
            raise GeneratorError(f"{endpoint} failed {self._retries.attempts} times: {kind}: {error}") from error

    def visual_tokens(self, image: Image.Image) -> int:
        """Visual tokens of an image after resizing. Raises ValueError for one that can't be used."""
        prompts, multiple = self.prompts, self.config.vision.pixel_multiple
        height, width = smart_resize(image.height, image.width, multiple, prompts.min_pixels, prompts.max_pixels)
        return (height // multiple) * (width // multiple)

    def check_length(self, conversation: ServerConversation, prompt_tokens: int) -> None:
        """Raises GeneratorError if the server read a prompt of another length than was meant."""
        if prompt_tokens != conversation.expanded:
            raise PromptMismatch(
                f"the server's prompt has {shown(prompt_tokens)} tokens, ours {conversation.expanded}: images are "
                "resized or expanded in another way there; set its min_pixels and max_pixels to ours"
            )


def adapter_digest(path: Path) -> str:
    """Twelve hexadecimal digits of an adapter's files, names and contents."""
    digest = hashlib.sha256()
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def documented_form() -> Iterator[None]:
    """Wraps a block that reads a reply as documented; raises GeneratorError for what it fails by on any other."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        why = one_line(f"{type(error).__name__} {error}", 200)
        raise GeneratorError(f"the reply does not have the documented form: {why}") from error


def shown(value: Any) -> str:
    """A value of a reply for a message: numbers and short texts as they are, the rest by its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return one_line(encodable(str(value)), 20) or "''"
    return f"of type {type(value).__name__}"


def read_log_probs(values: list[Any]) -> np.ndarray:
    """float32 [n]: what a server says log-probs are. Raises GeneratorError for what none can be, NaN included."""
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not LOWEST_LOG_PROB <= value <= ROUNDING:  # NaN is in no range
            raise GeneratorError(f"{shown(value)} is not a log-prob")
    return np.minimum(np.array(values, np.float32), np.float32(0))


def read_tokens(values: Any, vocabulary: int, limit: int) -> list[int]:
    """Sampled token ids. Raises GeneratorError for more than were asked for, or for one that the model has not."""
    if not isinstance(values, list) or len(values) > limit:
        count = len(values) if isinstance(values, list) else "no"
        raise GeneratorError(f"the server sent {count} tokens where at most {limit} were asked for")
    for token in values:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocabulary:
            raise GeneratorError(f"the server sent a token {shown(token)}, which the model does not have")
    return values


def check_sampled(tokens: list[int], scored: list[int], finish: Any, stop_ids: tuple[int, ...]) -> bool:
    """Whether a stop id ended the turn; raises GeneratorError for what servers are known to get wrong.

    Args:
      scored: the tokens that the log-probs are of.
      finish: the server's reason, which may be anything.
    """
    if scored != tokens or not tokens:
        raise GeneratorError(f"{len(scored)} log-probs do not belong to the {len(tokens)} tokens sampled")
    if finish not in ("stop", "length"):
        raise GeneratorError(f"the server ended a turn with the reason {shown(finish)}")
    if any(token in stop_ids for token in tokens[:-1]):
        raise GeneratorError("the server sampled on after a stop token")
    if finish == "stop" and tokens[-1] not in stop_ids:
        raise GeneratorError("the server strips the stop token, so its log-prob is missing")
    return finish == "stop"


class ServerSession:
    """One conversation with a server."""

    def __init__(self, server: GenerationServer, sampling: SamplingConfig, stop_ids: tuple[int, ...]):
        self._server, self._sampling, self._stop_ids = server, sampling, stop_ids
        self._conversation = ServerConversation()

    async def turn(self, context: ContextChunk, on_sampled: OnSampled | None = None) -> Turn:
        """Reads a prompt or an observation, and samples. Raises GeneratorError if the server fails or is wrong.

        Args:
          on_sampled: called once, with all of the turn: it is asked for whole.
        """
        server, sampling, talk = self._server, self._sampling, self._conversation
        try:
            visual = [server.visual_tokens(image) for image in context.images]
        except ValueError as error:
            return Turn(None, TurnEnd.UNREADABLE, str(error))
        expanded = talk.expanded + len(context.tokens) + sum(visual) - len(visual)
        if expanded >= server.prompts.context or len(talk.images) + len(visual) > server.prompts.max_images:
            return Turn(None, TurnEnd.CONTEXT)
        talk.read(context, visual)
        limit = min(sampling.max_new_tokens, server.prompts.context - expanded)
        version = server.version
        with documented_form():
            completion = await server.sample(talk, sampling, self._stop_ids, limit)
        talk.tokens += completion.tokens
        versions = np.full(len(completion.tokens), version, np.int32)
        chunk = SampledChunk(
            np.array(completion.tokens, np.int32), completion.logp_truncated, completion.logp_full, versions
        )
        if on_sampled is not None:
            on_sampled(Sampled(chunk.tokens, chunk.logp_truncated, chunk.logp_full, completion.stopped))
        if completion.stopped:
            return Turn(chunk, TurnEnd.STOP)
        return Turn(chunk, TurnEnd.LENGTH if limit == sampling.max_new_tokens else TurnEnd.CONTEXT)

    async def close(self) -> None:
        """Nothing is held on the server."""


def _data_uri(image: Image.Image) -> str:
    return embedded(png_bytes(image if image.mode == "RGB" else image.convert("RGB")), "PNG")


def sampling_params(sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> dict[str, Any]:
    """What both servers are asked for in the same words; each names the limit on new tokens in its own."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "stop_token_ids": list(stop_ids),
    }


def is_truncated(sampling: SamplingConfig) -> bool:
    """Whether tokens are drawn from a part of the vocabulary only."""
    return sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0 or sampling.temperature == 0
