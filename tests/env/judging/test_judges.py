import pytest

from hypereyes_jax.env import ExactJudge, Judge, Question


@pytest.mark.parametrize(
    ("answer", "accepted", "same"),
    [
        ("The Côte d'Ivoire.", "cote d ivoire", True),
        ("N'Djamena", "N’Djamena", True),
        ("Chad", "Niger", False),
        ("", "", False),
        ("the", "a", False),
        ("19.1 million", "19,100,000", True),
        ("about 19.1 million people", "19100000 people", True),
        ("19.1 million", "19.1 billion", False),
        ("-5", "5", False),
        ("1.5", "15", False),
        ("45 %", "45 percent", True),
        ("45 km", "45 miles", False),
        ("45", "45 km", True),
        ("1960", "1961", False),
        ("Apollo 11", "11", False),
        ("Apollo 11", "apollo 11", True),
        ("3 of 4", "3", False),
    ],
)
def test_exact_match(answer, accepted, same):
    assert ExactJudge().matches(answer, accepted) is same
    assert ExactJudge().matches(accepted, answer) is same


async def test_aliases_and_no_answer():
    question = Question("q", "?", (), ("Myanmar", "Burma"))
    judge = ExactJudge()
    assert isinstance(judge, Judge)
    assert await judge.judge(question, "burma") is True
    assert await judge.judge(question, "Laos") is False
    assert await judge.judge(question, None) is False


def test_tolerance_is_in_the_name():
    judge = ExactJudge(number_tolerance=0.01)
    assert judge.matches("100", "100.9")
    assert judge.name != ExactJudge().name
