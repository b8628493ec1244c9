"""A user's own judge, by name."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

import numpy as np

from hypereyes_jax.configs.objects import in_words, instance, named_object
from hypereyes_jax.env.judging.judges import MADE_UP, Judge
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError

Verdict = bool | None
OwnJudge = Callable[[Question, str], Verdict | Awaitable[Verdict]]


class FunctionJudge:
    """A function of a question and an answer as a judge. It may be async; what it raises ends the run."""

    def __init__(self, name: str, function: OwnJudge):
        self.name, self._function = name, function

    async def judge(self, question: Question, answer: str | None) -> bool | None:
        if answer is None:
            return False
        verdict = self._function(question, answer)
        return await verdict if inspect.isawaitable(verdict) else verdict


async def own_judge(given: str | Judge | OwnJudge) -> Judge:
    """The judge of that name (`module:object`), or a judge or function itself, asked about a made-up answer.

    Raises:
      UserError: there is none, it is neither a judge nor a function of two arguments, or its verdict is none of True,
        False and None.
    """
    source = named_object(given, "judge")
    own, name = instance(source), source.name
    judge: Judge = own if isinstance(own, Judge) else FunctionJudge(f"{name}:{source.sha256[:12]}", own)
    if not isinstance(own, Judge):
        try:
            inspect.signature(own).bind(MADE_UP, "Paris")
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{name} is not a judge: it needs a name and async judge(question, answer), or to be a function of a "
                f"question and an answer ({error})"
            ) from None
    try:
        verdict = await judge.judge(MADE_UP, "Paris")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the judge {name} failed on a made-up answer: {in_words(error)}. It must be a function of a question and "
            "an answer, which may be async, or have a name and async judge(question, answer)"
        ) from error
    if not (verdict is None or (np.ndim(verdict) == 0 and verdict in (True, False))):
        raise UserError(f"the judge {name} gave {verdict!r} on a made-up answer, where True, False or None is needed")
    return judge
