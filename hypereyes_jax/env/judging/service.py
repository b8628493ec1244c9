"""The judge that a command was asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.judges import ExactJudge, Judge
from hypereyes_jax.env.judging.llm_judge import RULES, LlmJudge
from hypereyes_jax.env.web.chat_api import ChatClient, ChatEndpoint, ChatError
from hypereyes_jax.errors import UserError


@contextlib.asynccontextmanager
async def judging(config: JudgeConfig) -> AsyncIterator[Judge]:
    """The judge for the time of the block. Raises UserError for a bad setting, or a judge that refuses its key."""
    if not config.url:
        yield ExactJudge()
        return
    if not config.model or config.rule not in RULES:
        raise UserError(f"a judge needs --judge.model, and --judge.rule one of {', '.join(RULES)}.")
    client = ChatClient(ChatEndpoint(config.url, config.model, os.environ.get("OPENAI_API_KEY", "")))
    try:
        yield LlmJudge(client, config.rule)
    except ChatError as error:
        raise UserError(f"the judge can't be asked: {error}") from error
    finally:
        await client.aclose()
