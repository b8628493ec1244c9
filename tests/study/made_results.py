"""Results of evaluations, made up."""

import json
from dataclasses import asdict

from hypereyes_jax.eval.benchmark_run import QuestionResult
from hypereyes_jax.study.results import Results


def result(number, correct, rounds, kind=""):
    return QuestionResult(f"q{number}", correct, None, "a", rounds, 2 * rounds, 400, 0.1, 0.0, "exact", kind)


def results(correct, rounds, seed=0):
    rows = [result(n, bool(c), r) for n, (c, r) in enumerate(zip(correct, rounds, strict=True))]
    return Results({f"{seed}/{row.id}": row for row in rows})


def write_results(path, rows):
    """As an evaluation leaves them: a line a question."""
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
