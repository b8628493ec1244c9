"""Who says whether an answer is right. A judge has a name, which is recorded beside each verdict."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hypereyes_jax.env.judging.quantities import normalise, plain_signs, read_date, read_number, same_number
from hypereyes_jax.env.types import Question

__all__ = ["MADE_UP", "ExactJudge", "Judge", "normalise", "read_number"]

# asked of a judge before anything is spent: a wrong name, address or key, and a model without verdicts, are told then
MADE_UP = Question("", "Which city is the capital of France?", (), ("Paris",))

# Letters that no decomposition takes apart, as they are written without their marks.
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "œ": "oe", "æ": "ae", "ı": "i", "ð": "d", "þ": "th"})
_BOXED = re.compile(r"^\W*\\(?:boxed|text)\s*\{(.*)\}\W*$", re.DOTALL)
_TIME = re.compile(r"\b(\d{1,2})\.(\d\d)(?= ?[ap]\.?m)", re.IGNORECASE)  # 10.30 am
_POINT = re.compile(r"(?<![\d.])(\d+)\.(?=\d+(?![\d.]))")  # of a decimal, and not of a date or a version
_POINT_OR_COMMA = re.compile(r"(?<![\d.,])(\d+)[.,](?=\d+(?![\d.,]))")
_INITIAL = re.compile(r"\b([^\W\d_])\. ?(?=[^\W\d_]\b)")  # of names, and of p.m.
_LONGEST = 1000  # characters of a text that is read as a number or a date


@runtime_checkable
class Judge(Protocol):
    """Whoever decides whether an answer is right."""

    @property
    def name(self) -> str: ...

    async def judge(self, question: Question, answer: str | None) -> bool | None:
        """True, False, or None when the judge gave no verdict: such a rollout is masked, never scored."""
        ...


@dataclass(frozen=True)
class ExactJudge:
    """Equality with the reference or one of its aliases, after normalisation; numbers are compared as numbers."""

    number_tolerance: float = 0.0  # relative; 0 because 1 % would accept a year twenty years off

    @property
    def name(self) -> str:
        return "exact" if not self.number_tolerance else f"exact(tolerance={self.number_tolerance:g})"

    async def judge(self, question: Question, answer: str | None) -> bool | None:
        if answer is None:
            return False
        return any(self.matches(answer, right) for right in question.answers)

    def matches(self, answer: str, accepted: str) -> bool:
        """Whether two answers mean the same: "The Côte d'Ivoire." = "cote d ivoire", "19.1 million" = "19,100,000".

        So do "5 km" and "5,000 metres", and "12 March 2020" and "March 12th, 2020".
        """
        if max(len(answer), len(accepted)) > _LONGEST:
            return normalise(answer) == normalise(accepted) != ""
        dates = read_date(answer), read_date(accepted)
        if None not in dates:
            return dates[0] == dates[1]
        # \boxed{\text{Paris}} has two of them
        answer, accepted = (_BOXED.sub(r"\1", _BOXED.sub(r"\1", text)) for text in (answer, accepted))
        a, b = (read_number(_INITIAL.sub(r"\1", text)) for text in (answer, accepted))  # 3 p.m.
        if a is None or b is None:
            return bool(_readings(answer) & _readings(accepted))
        return same_number(a, b, self.number_tolerance)


def _readings(text: str) -> set[str]:
    """The words of an answer that is not a number; twice for "1,5", which may be a decimal or a list. "3.5" is none."""
    text = _TIME.sub(r"\1:\2", text)
    points = (_POINT.sub(r"\1 point ", text), _POINT_OR_COMMA.sub(r"\1 point ", text))
    return {_words(each) for each in points} - {""}


def _words(text: str) -> str:
    """The words of an answer that is not a number: `normalise`, and spellings of the same words made one.

    Initials are one word with or without stops, "&" is "and", and signs that tell names apart stay ("C++", "C#").
    """
    text = _INITIAL.sub(r"\1", text)
    text = re.sub(r"(?<=\w)([+#]+)(?!\w)", lambda match: " sign" + match.group().encode().hex(), text)
    text = re.sub(r"(?<=\w)[\s-]+a\W*$", " lettera", text, flags=re.IGNORECASE)  # no article: "Vitamin A" is a name
    text = text.replace("&", " and ").casefold().translate(_LETTERS)
    return normalise(plain_signs(text))
