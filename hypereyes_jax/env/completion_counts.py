"""Tool use over the text of a whole conversation, as reward functions and metrics count it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hypereyes_jax.env.actions import Answer, parse_turn
from hypereyes_jax.env.published_counts import published_counts

_ANSWER, _ANSWER_END = "<answer>", "</answer>"


@dataclass(frozen=True)
class CompletionCounts:
    """Tool use over a whole conversation text."""

    tool_calls: int  # t_c
    searches: int  # t_s
    max_parallel: int
    per_turn: tuple[tuple[int, int], ...]  # (calls, searches) of each turn that searched
    final_answer: str  # closed answer of the last assistant turn, "" if none


def count_completion(completion: str, *, published_counting: bool = False) -> CompletionCounts:
    """Counts over `completion`, a chat text whose assistant turns are set apart by <|im_start|> and <|im_end|> marks.

    By default a turn that asks for searches is one round however many calls it holds, and each box or query is one
    search; with `published_counting` the result is that of the authors' published reward code, its quirks included.
    A text does not tell which searches were really sent: where an `EpisodeResult` is at hand, its counts are the ones.
    """
    turns = [part.split("<|im_end|>", 1)[0] for part in re.split(r"<\|im_start\|>assistant\n?", completion)]
    rows, final = [], ""
    for turn in turns:
        if published_counting:
            calls, searches = published_counts(turn)
            final = _first_closed_answer(turn)
        elif turn.lstrip().startswith("<|im_start|>"):  # the prompt, which may show examples of calls
            continue
        else:
            parse = parse_turn(turn)
            calls, searches = int(parse.is_round), parse.invocations
            final = parse.action.text if isinstance(parse.action, Answer) and parse.action.closed else ""
        if calls:
            rows.append((calls, searches))
    return CompletionCounts(
        tool_calls=sum(calls for calls, _ in rows),
        searches=sum(searches for _, searches in rows),
        max_parallel=max((searches for _, searches in rows), default=0),
        per_turn=tuple(rows),
        final_answer=final,
    )


def _first_closed_answer(turn: str) -> str:
    start = turn.find(_ANSWER)
    end = turn.find(_ANSWER_END, start + len(_ANSWER)) if start >= 0 else -1
    return turn[start + len(_ANSWER) : end].strip() if end >= 0 else ""
