"""An SGLang server as a generator: token ids in, token ids and log-probs out, adapters pushed by version.

Uses the server's native endpoints `/generate`, `/load_lora_adapter` and `/unload_lora_adapter` (docs.sglang.io, "Native
API").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.rollout.servers.server import (
    GenerationServer,
    ServerCompletion,
    ServerConversation,
    check_sampled,
    is_truncated,
    read_log_probs,
    read_tokens,
    sampling_params,
)


class SGLangServer(GenerationServer):
    """SGLang. Use as `async with SGLangServer(...) as server:`; arguments are those of `GenerationServer`.

    It reports log-probs at the sampling temperature over the full vocabulary. Under truncation (top_p, top_k, min_p)
    the truncated log-prob is therefore unknown and recorded as NaN, which no loss can take for a number; without
    truncation the two are one.
    """

    load_endpoint = "load_lora_adapter"
    unload_endpoint = "unload_lora_adapter"

    async def sample(
        self, conversation: ServerConversation, sampling: SamplingConfig, stop_ids: tuple[int, ...], limit: int
    ) -> ServerCompletion:
        reply = await self.generate(
            conversation.tokens,
            conversation.images,
            sampling_params(sampling, stop_ids) | {"max_new_tokens": limit},
        )
        meta = reply["meta_info"]
        self.check_length(conversation, meta["prompt_tokens"])
        tokens = read_tokens(reply["output_ids"], self.config.text.vocab_size, limit)
        rows = meta["output_token_logprobs"]
        stopped = check_sampled(tokens, [row[1] for row in rows], meta["finish_reason"]["type"], stop_ids)
        full = read_log_probs([row[0] for row in rows])
        unknown = np.full(len(tokens), np.nan, np.float32)
        return ServerCompletion(tokens, unknown if is_truncated(sampling) else full, full, stopped)

    async def score(self, conversation: ServerConversation) -> list[tuple[int, float]]:
        # From the first token on: what stands before a later start differs between versions. At visual tokens there is
        # 0 in place of the image token.
        sampling = {"temperature": 1.0, "max_new_tokens": 0}
        reply = await self.generate(conversation.tokens, conversation.images, sampling, logprob_start_len=0)
        self.check_length(conversation, reply["meta_info"]["prompt_tokens"])
        return [(token, logp) for logp, token, *_ in reply["meta_info"]["input_token_logprobs"][1:]]

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
