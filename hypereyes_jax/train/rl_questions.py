"""The questions of an RL run, opened from the sources that its settings name."""

from __future__ import annotations

from hypereyes_jax.data.sources import SourceOptions, open_questions
from hypereyes_jax.train.question_selection import read_selection
from hypereyes_jax.train.settings import SelectionRule
from hypereyes_jax.train.types import RlQuestions, Validation


def open_rl_questions(
    questions: str, rule: SelectionRule, validation: str | None, every: int, options: SourceOptions, say: bool = True
) -> RlQuestions:
    """The questions, unread.

    Args:
      questions: the source of candidates.
      rule: which of them are trained on.
      validation: the source of other questions that the policy answers each `every` steps, if there is one.
      say: print what the sources leave out.

    Raises:
      UserError: a source can't be read, the split of the second is not named, or the references are no such file.
    """
    candidates = open_questions(questions, options=options)
    others = None
    if validation:
        others = open_questions(validation, options=options)
        others.report.refuse_default_split(validation)
    for source in (candidates, *([others] if others is not None else [])):
        for sentence in source.report.left_out() if say else ():
            print(sentence)
    if rule.references is not None:
        read_selection(rule.references)
    return RlQuestions(
        candidates,
        rule,
        None if others is None else Validation(others, every),
        (questions, *([validation] if validation else [])),
    )
