import pytest

from hypereyes_jax.env.types import StopReason
from hypereyes_jax.eval import evaluate
from tests.eval.trajectories import question, trajectory


class Judge:
    """Right when the answer is the reference; out of reach for the answer "unclear"."""

    name = "test"

    def __init__(self):
        self.asked = []

    async def judge(self, question, answer):
        self.asked.append(answer)
        return None if answer == "unclear" else answer in question.answers


def runner(*trajectories):
    async def run(questions):
        return list(trajectories)

    return run


async def test_infrastructure_failures_and_judge_outages_are_reported_apart():
    judge = Judge()
    done = await evaluate(
        runner(
            trajectory("a"),
            trajectory("b", answer="Chad"),
            trajectory("c", stop=StopReason.INFRASTRUCTURE, answer=None),
            trajectory("d", answer="unclear"),
            trajectory("e", stop=StopReason.TURN_LIMIT, answer=None),
        ),
        [question(name) for name in "abcde"],
        judge,
        visual_tokens=lambda image: 1,
    )
    assert [(j.correct, j.masked) for j in done.judged] == [
        (True, ""),
        (False, ""),
        (None, "infrastructure"),
        (None, "judge"),
        (False, ""),
    ]
    assert (done.summary.n, done.summary.accuracy) == (3, pytest.approx(1 / 3))
    assert sorted(judge.asked) == ["Chad", "Norway", "unclear"]  # no answer needs no judge, an outage has none


async def test_a_runner_that_loses_or_reorders_trajectories_is_refused():
    for trajectories in ([trajectory("a")], [trajectory("b"), trajectory("a")]):
        with pytest.raises(ValueError, match="in order"):
            await evaluate(
                runner(*trajectories), [question("a"), question("b")], Judge(), visual_tokens=lambda image: 1
            )
