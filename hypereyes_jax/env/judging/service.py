"""The judge that a command was asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypereyes_jax.errors import UserError

if TYPE_CHECKING:
    from hypereyes_jax.env.judging.judges import Judge


@dataclass(frozen=True)
class JudgeConfig:
    """Who says whether an answer is right."""

    url: str = ""
    """Base of an OpenAI-compatible endpoint whose model judges the answers; none = they are compared exactly."""
    model: str = ""
    """Its name there. The key is read from OPENAI_API_KEY."""
    rule: str = "general"
    """How it is told to judge: general, short-fact, browse, visual-entity or multi-entity."""


@contextlib.asynccontextmanager
async def judging(config: JudgeConfig) -> AsyncIterator[Judge]:
    """The judge for the time of the block. Raises UserError for a bad setting, or a judge that refuses its key."""
    from hypereyes_jax.env.judging.judges import ExactJudge
    from hypereyes_jax.env.judging.llm_judge import RULES, LlmJudge
    from hypereyes_jax.env.web.chat_api import ChatClient, ChatEndpoint, ChatError

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
