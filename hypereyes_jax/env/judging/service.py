"""The judge that a command was asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint, ChatError
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.judges import MADE_UP, ExactJudge, Judge
from hypereyes_jax.env.judging.llm_judge import RULES, LlmJudge
from hypereyes_jax.env.judging.own import own_judge
from hypereyes_jax.errors import UserError


def check_judge(config: JudgeConfig) -> None:
    """Raises UserError for a judge that could not be meant, or that would not be heeded."""
    if config.rule not in RULES:
        raise UserError(f"--judge.rule must be one of {', '.join(RULES)}, not {config.rule!r}.")
    if config.object and (config.url or config.model):
        raise UserError("give --judge.url with --judge.model, or --judge.object, not both.")
    if config.url and not config.model:
        raise UserError("a judge at --judge.url needs the name of its model: --judge.model.")
    if config.model and not config.url:
        raise UserError(
            "--judge.model names a model at an endpoint, and without its --judge.url answers would be compared "
            "exactly. Give that, too, or leave out --judge.model."
        )


@contextlib.asynccontextmanager
async def judging(config: JudgeConfig) -> AsyncIterator[Judge]:
    """The judge for the time of the block.

    A model is asked about a made-up answer first, so that a wrong name, address or key, or a model that gives no
    verdicts, ends the command before anything is spent.

    Raises:
      UserError: a bad setting, a judge that gives no verdict on that answer, or one that later can't be used.
    """
    check_judge(config)
    if config.object:
        yield await own_judge(config.object)
        return
    if not config.url:
        yield ExactJudge()
        return
    client = ChatClient(ChatEndpoint(config.url, config.model, os.environ.get(config.key_env, "")))
    judge = LlmJudge(client, config.rule, max_tokens=config.max_tokens)
    try:
        await judge.verdict(MADE_UP, MADE_UP.answers[0])
        yield judge
    except ChatError as error:
        raise UserError(f"the judge can't be used: {error}") from error
    finally:
        await client.aclose()
