"""Several sources of questions as one sequence, whose rows are decoded when they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from hypereyes_jax.data.curation.types import Pool
from hypereyes_jax.data.sources import Questions, SourceOptions, open_questions
from hypereyes_jax.data.sources.openable import openable
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError


class PooledQuestions(Sequence[Question]):
    """Questions of all pools, one pool after the other. An id is POOL/ID."""

    def __init__(self, pools: Sequence[tuple[str, Questions]]):
        self._pools = tuple(pools)
        self._ends = np.cumsum([len(questions) for _, questions in pools])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> Question: ...

    @overload
    def __getitem__(self, index: slice) -> list[Question]: ...

    def __getitem__(self, index: int | slice) -> Question | list[Question]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = int(np.searchsorted(self._ends, index, side="right"))
        name, questions = self._pools[number]
        question = questions[index - (int(self._ends[number - 1]) if number else 0)]
        return replace(question, id=f"{name}/{question.id}")

    def sizes(self) -> dict[str, int]:
        return {name: len(questions) for name, questions in self._pools}


@contextlib.contextmanager
def open_pools(pools: Sequence[Pool]) -> Iterator[PooledQuestions]:
    """The questions of all pools for the time of the block; rows that can't be used are left out and told.

    Raises UserError for a source that can't be read.
    """
    with contextlib.ExitStack() as stack:
        pools_by_name = []
        for pool in pools:
            options = SourceOptions(columns=dict(pool.columns), bad_rows="skip")
            questions = stack.enter_context(open_questions(pool.source, options=options))
            if pool.most is not None:
                if pool.most < 1:
                    raise UserError(f"the pool {pool.name} takes {pool.most} questions; it must take at least 1.")
                count = min(pool.most, len(questions))
                questions = questions.select(np.linspace(0, len(questions) - 1, count).astype(int))
            questions = questions.select(openable(questions, questions.report, options.bad_rows))
            for sentence in questions.report.left_out():
                print(f"{pool.name}: {sentence}")
            pools_by_name.append((pool.name, questions))
        yield PooledQuestions(pools_by_name)
