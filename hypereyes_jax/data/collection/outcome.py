"""What a collection gave: which questions fell out where, the demonstrations, and the questions for RL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypereyes_jax.data.collection.attempts import AttemptLog
from hypereyes_jax.data.collection.types import Attempt, CollectConfig, CollectionStage
from hypereyes_jax.data.files import json_line, question_json
from hypereyes_jax.data.question_digest import attempt_key
from hypereyes_jax.data.selection import LeftOut, Try, initial_reference
from hypereyes_jax.data.sources.question_rows import REFERENCE
from hypereyes_jax.env.types import Question
from hypereyes_jax.files import writing_atomic

DEMONSTRATIONS, RL_QUESTIONS, FUNNEL = "demonstrations.jsonl", "rl_questions.jsonl", "funnel.json"
UNDECIDED = "undecided"  # an attempt that is still to be made decides
TWICE = "asked before, with the same images and answers"
_EXAMPLES = 5  # questions named for each reason


def fate(key: str, log: AttemptLog, config: CollectConfig) -> tuple[CollectionStage | None, str]:
    """(stage at which a question fell out, why); (None, "") if it became a demonstration."""
    for stage, tries in (
        (CollectionStage.NECESSITY, config.necessity),
        (CollectionStage.DIFFICULTY, config.difficulty),
    ):
        attempts = log.of(key, stage)[:tries]
        if any(attempt.correct for attempt in attempts):
            return stage, "answered without tools" if stage is CollectionStage.NECESSITY else "solved in a single pass"
        if len(attempts) < tries:
            return stage, UNDECIDED
    if not config.budgets:
        return CollectionStage.SAMPLING, "not sampled"
    success = kept_attempt(key, log, config)
    if success is None:
        whole = len(log.of(key, CollectionStage.SAMPLING)) >= len(config.budgets) * config.trials
        return CollectionStage.SAMPLING, "unsolved within every budget" if whole else UNDECIDED
    return (CollectionStage.SAMPLING, f"filter: {success.fault}") if success.fault else (None, "")


def kept_attempt(key: str, log: AttemptLog, config: CollectConfig) -> Attempt | None:
    """The success under the smallest budget, faulty or not; None while an earlier attempt is to be made."""
    for number, attempt in enumerate(log.of(key, CollectionStage.SAMPLING)):
        if attempt.number != number:
            return None
        if attempt.correct:
            return attempt
    return None


def selected(key: str, log: AttemptLog, config: CollectConfig) -> tuple[int, int] | LeftOut:
    """(rounds, invocations) to begin TRACE with, of a question that RL can learn from, or why it is left out."""
    attempts = [log.made(key, CollectionStage.SELECTION, number) for number in range(config.selection)]
    tries = [None if each is None else Try(each.rounds, each.invocations, each.correct) for each in attempts]
    return initial_reference(tries)


def write_outcome(
    folder: Path, questions: Sequence[Question], log: AttemptLog, config: CollectConfig
) -> dict[str, Any]:
    """Writes demonstrations, questions for RL and the funnel, one question in memory at a time. Returns the funnel."""
    reasons: dict[str, Counter[str]] = {stage.value: Counter() for stage in CollectionStage}
    ids_by_reason: dict[str, list[str]] = {}
    rounds: Counter[int] = Counter()
    left_out: Counter[str] = Counter()
    questions_written, keys = 0, set[str]()
    first_stage = next(_configured_stages(config))
    demonstrations = folder / DEMONSTRATIONS
    with writing_atomic(demonstrations) as talks, writing_atomic(folder / RL_QUESTIONS) as questions_file:
        for question in questions:
            key = attempt_key(question)
            if key in keys:
                reasons[first_stage.value][TWICE] += 1
                ids_by_reason.setdefault(f"{first_stage.value}: {TWICE}", []).append(question.id)
                continue
            keys.add(key)
            stage, why = fate(key, log, config)
            if stage is None:
                attempt = kept_attempt(key, log, config)
                row = None if attempt is None else log.conversation(key, attempt.number)
                if attempt is None or row is None:
                    stage, why = CollectionStage.SAMPLING, UNDECIDED
                else:
                    rounds[attempt.rounds] += 1
                    talks.write(json_line(demonstrations, sum(rounds.values()), row).encode())
            if stage is not None:
                reasons[stage.value][why] += 1
                ids_by_reason.setdefault(f"{stage.value}: {why}", []).append(question.id)
            reference = selected(key, log, config) if config.selection else None
            if isinstance(reference, LeftOut):
                left_out[reference.value] += 1
            elif reference is not None:
                questions_written += 1
                row = question_json(question)
                row["meta"] = {**row["meta"], REFERENCE: list(reference)}
                questions_file.write(json_line(folder / RL_QUESTIONS, questions_written, row).encode())
    return {
        "questions": len(questions),
        "stages": _funnel(len(questions), reasons, config),
        "demonstrations": sum(rounds.values()),
        "rounds": {str(n): rounds[n] for n in sorted(rounds)},
        "rl_questions": questions_written,
        "not_selected": dict(left_out),
        "examples": {reason: ids[:_EXAMPLES] for reason, ids in ids_by_reason.items()},
    }


def _funnel(count: int, reasons: Mapping[str, Counter[str]], config: CollectConfig) -> list[dict[str, Any]]:
    rows = []
    for stage in _configured_stages(config):
        out = reasons[stage.value]
        rows.append({"stage": stage.value, "in": count, "out": count - sum(out.values()), "dropped": dict(out)})
        count -= sum(out.values())
    return rows


def _configured_stages(config: CollectConfig) -> Iterator[CollectionStage]:
    if config.necessity:
        yield CollectionStage.NECESSITY
    if config.difficulty:
        yield CollectionStage.DIFFICULTY
    yield CollectionStage.SAMPLING
