"""The judge that a command was asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.judges import MADE_UP, ExactJudge, Judge
from hypereyes_jax.env.judging.llm_judge import RULES, LlmJudge
from hypereyes_jax.env.judging.own import own_judge
from hypereyes_jax.env.web.chat_api import ChatClient, ChatEndpoint, ChatError
from hypereyes_jax.errors import UserError


@contextlib.asynccontextmanager
async def judging(config: JudgeConfig) -> AsyncIterator[Judge]:
    """The judge for the time of the block.

    A model is asked about a made-up answer first, so that a wrong name, address or key, or a model that gives no
    verdicts, ends the command before anything is spent.

    Raises:
      UserError: a bad setting, a judge that gives no verdict on that answer, or one that later can't be asked.
    """
    if config.object:
        if config.url:
            raise UserError("give --judge.url or --judge.object, not both.")
        yield await own_judge(config.object)
        return
    if not config.url:
        yield ExactJudge()
        return
    if not config.model or config.rule not in RULES:
        raise UserError(f"a judge needs --judge.model, and --judge.rule one of {', '.join(RULES)}.")
    client = ChatClient(ChatEndpoint(config.url, config.model, os.environ.get(config.key_env, "")))
    judge = LlmJudge(client, config.rule, max_tokens=config.max_tokens)
    try:
        await judge.verdict(MADE_UP, MADE_UP.answers[0])
        yield judge
    except ChatError as error:
        raise UserError(f"the judge can't be asked: {error}") from error
    finally:
        await client.aclose()
