"""Who says whether an answer is right. A judge has a name, which is recorded beside each verdict."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hypereyes_jax.env.types import Question

# asked of a judge before anything is spent: a wrong name, address or key, and a model without verdicts, are told then
MADE_UP = Question("", "Which city is the capital of France?", (), ("Paris",))

_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d{1,3})?", re.IGNORECASE)
_ARTICLES = {"a", "an", "the"}
_HEDGES = {"about", "approximately", "around", "roughly"}


@runtime_checkable
class Judge(Protocol):
    @property
    def name(self) -> str: ...

    async def judge(self, question: Question, answer: str | None) -> bool | None:
        """True, False, or None when the judge could not be asked: such a rollout is masked, never scored."""
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
        return any(self.matches(answer, accepted) for accepted in question.answers)

    def matches(self, answer: str, accepted: str) -> bool:
        """Whether two answers mean the same: "The Côte d'Ivoire." = "cote d ivoire", "19.1 million" = "19,100,000"."""
        a, b = read_number(answer), read_number(accepted)
        if a is None or b is None:
            return bool(normalise(answer)) and normalise(answer) == normalise(accepted)
        same_words = a.before == b.before and (a.unit == b.unit or not a.unit or not b.unit)
        # 1e-9 absorbs the rounding of "19.1 million" to binary.
        return same_words and abs(a.value - b.value) <= max(self.number_tolerance, 1e-9) * abs(b.value)


def normalise(text: str) -> str:
    """Case, accents, punctuation, articles and spacing removed."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(c if c.isalnum() else " " for c in decomposed if not unicodedata.combining(c))
    words = letters.split()
    return " ".join(word for word in words if word not in _ARTICLES) or " ".join(words)


@dataclass(frozen=True)
class Number:
    value: float
    before: str  # normalised words in front, hedges such as "about" removed
    unit: str  # normalised words behind, the scale word removed


def read_number(text: str) -> Number | None:
    """A text with exactly one number in it; None for any other. "19.1 million people" -> 19100000.0, "", "people"."""
    matches = list(_NUMBER.finditer(text))
    if len(matches) != 1:
        return None
    value = float(matches[0].group().replace(",", ""))
    before, after = text[: matches[0].start()], text[matches[0].end() :].replace("%", " percent ")
    unit = normalise(after).split()
    if unit and unit[0] in _SCALES:
        value *= _SCALES[unit.pop(0)]
    return Number(value, " ".join(w for w in normalise(before).split() if w not in _HEDGES), " ".join(unit))
