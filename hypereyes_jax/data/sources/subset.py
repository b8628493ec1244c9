"""Some questions of a sequence, which stay unopened until they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from hypereyes_jax.data.sources.source import Questions
from hypereyes_jax.env.types import Question


def subset(questions: Sequence[Question], numbers: Sequence[int]) -> Sequence[Question]:
    """These of the questions, in this order. What decodes its questions when they are asked for decodes none now."""
    if isinstance(questions, Questions):
        return questions.select(numbers)
    if isinstance(questions, list | tuple):
        return [questions[number] for number in numbers]
    return _Subset(questions, numbers)


class _Subset(Sequence[Question]):
    def __init__(self, questions: Sequence[Question], numbers: Sequence[int]):
        self._questions, self._numbers = questions, tuple(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Question: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Question]: ...

    def __getitem__(self, index: int | slice) -> Question | Sequence[Question]:
        if isinstance(index, slice):
            return _Subset(self._questions, self._numbers[index])
        return self._questions[self._numbers[index]]
