"""A user's own judge, by name."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

import numpy as np

from hypereyes_jax.configs.objects import in_words, instance, named_object
from hypereyes_jax.env.judging.judges import MADE_UP, Judge
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError

Verdict = bool | None
OwnJudge = Callable[[Question, str], Verdict | Awaitable[Verdict]]


class CheckedJudge:
    """A user's judge, or a function of a question and an answer, which may be async. What it raises ends the run.

    A verdict that is none is an error: "no" is not False.
    """

    def __init__(self, name: str, function: OwnJudge):
        self.name, self._function = name, function

    async def judge(self, question: Question, answer: str | None) -> bool | None:
        if answer is None:
            return False
        verdict = self._function(question, answer)
        if inspect.isawaitable(verdict):
            verdict = await verdict
        if verdict is None or (np.ndim(verdict) == 0 and verdict in (True, False)):
            return None if verdict is None else bool(verdict)
        raise NoVerdictError(f"the judge {self.name} gave {verdict!r:.200}, where True, False or None is needed")


class NoVerdictError(TypeError):
    """A user's judge returned what is neither True, False nor None."""


def check_own_judge(given: str | Judge | OwnJudge) -> None:
    """Raises UserError as `own_judge`, where no event loop runs: before a command loads anything."""
    asyncio.run(own_judge(given))


async def own_judge(given: str | Judge | OwnJudge) -> Judge:
    """The judge of that name (`module:object`), or a judge or function itself, asked about a made-up answer.

    Raises:
      UserError: there is none, it is neither a judge nor a function of two arguments, or its verdict is none of True,
        False and None.
    """
    source = named_object(given, "judge")
    own, name = instance(source), source.name
    judge = (
        CheckedJudge(str(own.name), own.judge)
        if isinstance(own, Judge)
        else CheckedJudge(f"{name}:{source.sha256[:12]}", own)
    )
    if not isinstance(own, Judge):
        try:
            inspect.signature(own).bind(MADE_UP, "Paris")
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{name} is not a judge: it needs a name and async judge(question, answer), or to be a function of a "
                f"question and an answer ({error})"
            ) from None
    try:
        await judge.judge(MADE_UP, "Paris")
    except UserError:
        raise
    except NoVerdictError as error:
        raise UserError(f"{error} (asked about a made-up answer)") from error
    except Exception as error:
        raise UserError(
            f"the judge {name} failed on a made-up answer: {in_words(error)}. It must be a function of a question and "
            "an answer, which may be async, or have a name and async judge(question, answer)"
        ) from error
    return judge
