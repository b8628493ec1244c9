"""A vLLM server as a generator: token ids in, token ids and log-probs out, adapters pushed by version.

Uses `/inference/v1/generate` (docs.vllm.ai, "token in, token out"; images as its `content_parts`, in vLLM since 0.28),
`/v1/load_lora_adapter` and `/v1/unload_lora_adapter`. Start the server with `--logprobs-mode processed_logprobs`, and
for adapters with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.rollout.episodes import GeneratorError
from hypereyes_jax.rollout.servers.server import (
    GenerationServer,
    PromptMismatch,
    ServerCompletion,
    ServerConversation,
    ServerSession,
    check_sampled,
    documented_form,
    is_truncated,
    read_log_probs,
    read_tokens,
    sampling_params,
)


class VLLMServer(GenerationServer):
    """vLLM. Use as `async with VLLMServer(...) as server:`; arguments are those of `GenerationServer`.

    With processed log-probs it reports those of the distribution really sampled from, so the truncated log-prob is
    exact. Under truncation (top_p, top_k, min_p) the one over the full vocabulary is unknown and recorded as NaN: a
    learner must then compare with the truncated log-prob (`LearnerConfig(tis_against="truncated")`). Of greedy sampling
    it tells neither. The first conversation checks the server's log-prob mode: vLLM's default leaves out the
    temperature.
    """

    load_endpoint = "v1/load_lora_adapter"
    unload_endpoint = "v1/unload_lora_adapter"
    _mode_is_right = False

    async def open(self, seed: int, sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> ServerSession:
        """A conversation. Raises GeneratorError if the server does not report processed log-probs."""
        if not self._mode_is_right:
            await self._check_mode()
            self._mode_is_right = True
        return await super().open(seed, sampling, stop_ids)

    async def sample(
        self, conversation: ServerConversation, sampling: SamplingConfig, stop_ids: tuple[int, ...], limit: int
    ) -> ServerCompletion:
        reply = await self.generate(
            conversation.tokens,
            conversation.images,
            sampling_params(sampling, stop_ids) | {"max_tokens": limit},
        )
        self.check_length(conversation, reply["usage"]["prompt_tokens"])
        self._check_prompt(conversation, reply.get("prompt_token_ids"))
        choice = reply["choices"][0]
        tokens = read_tokens(choice["token_ids"], self.config.text.vocab_size, limit)
        rows = (choice.get("logprobs") or {}).get("content") or []
        stopped = check_sampled(tokens, [_token_of(row) for row in rows], choice["finish_reason"], stop_ids)
        logp = read_log_probs([row["logprob"] for row in rows])
        unknown = np.full(len(tokens), np.nan, np.float32)
        if sampling.temperature == 0:
            return ServerCompletion(tokens, unknown, unknown, stopped)
        return ServerCompletion(tokens, logp, unknown if is_truncated(sampling) else logp, stopped)

    async def score(self, conversation: ServerConversation) -> list[tuple[int, float]]:
        sampling = {"temperature": 1.0, "max_tokens": 1, "prompt_logprobs": 0}
        reply = await self.generate(conversation.tokens, conversation.images, sampling)
        self.check_length(conversation, reply["usage"]["prompt_tokens"])
        self._check_prompt(conversation, reply.get("prompt_token_ids"))
        rows = reply["prompt_logprobs"] or []
        tokens = conversation.expanded_tokens(self.config.image_token_id)
        if len(rows) != len(tokens):
            return []
        # An entry may hold the likeliest tokens beside the actual one: it is found by its id.
        entries = [(token, (row or {}).get(str(token))) for token, row in zip(tokens[1:], rows[1:], strict=True)]
        return [(-1, np.nan) if entry is None else (token, entry["logprob"]) for token, entry in entries]

    async def generate(self, tokens: list[int], images: list[str], sampling: dict[str, Any]) -> dict[str, Any]:
        """One call of `/inference/v1/generate`. Raises GeneratorError."""
        request: dict[str, Any] = {
            "token_ids": tokens,
            # a turn ends at our stop ids only; an end that the model's own files name would be cut off
            "sampling_params": {"logprobs": 0, "detokenize": False, "ignore_eos": True, **sampling},
            "return_token_ids": True,
        }
        if images:
            request["content_parts"] = [{"type": "image_url", "image_url": {"url": uri}} for uri in images]
        if self.adapter is not None:
            request["model"] = self.adapter
        return await self.post("inference/v1/generate", request)

    def _check_prompt(self, conversation: ServerConversation, prompt_ids: list[int] | None) -> None:
        """Checks the prompt that the server read. Not every version reports it; its length is checked in any case."""
        if prompt_ids is None:
            return
        if prompt_ids != conversation.expanded_tokens(self.config.image_token_id):
            raise PromptMismatch("the server read another prompt than it was sent")

    async def _check_mode(self) -> None:
        """Tells modes apart: cut down to one token, a log-prob is 0; a raw log-prob knows nothing of the cut."""
        probe = [self.config.vision_start_token_id]
        reply = await self.generate(probe, [], {"temperature": 1.0, "top_k": 1, "max_tokens": 1})
        with documented_form():
            (row,) = reply["choices"][0]["logprobs"]["content"]
            (logp,) = read_log_probs([row["logprob"]])
        if logp < -1e-4:
            raise GeneratorError(
                f"a token drawn from itself alone has log-prob {logp:.3g} there, not 0: start vLLM with "
                "--logprobs-mode processed_logprobs"
            )


def _token_of(row: dict[str, Any]) -> Any:
    """The id of a scored token, if it is one; older servers write it as the text "token_id:5"."""
    if "token_id" in row:
        return row["token_id"]
    return int(row["token"].removeprefix("token_id:"))
