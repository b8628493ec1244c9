"""The judge that settings name."""

import pytest

from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.service import check_judge, judging
from hypereyes_jax.errors import UserError


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        (JudgeConfig(model="m"), r"without its --judge.url answers would be compared exactly\. Give"),
        (JudgeConfig(url="http://127.0.0.1:9/v1"), "needs the name of its model: --judge.model"),
        (JudgeConfig(rule="strict"), "--judge.rule must be one of general, .*, not 'strict'"),
        (JudgeConfig(object="a:b", url="http://127.0.0.1:9/v1", model="m"), "or --judge.object, not both"),
        (JudgeConfig(object="a:b", model="m"), "or --judge.object, not both"),
    ],
)
async def test_a_setting_of_judges_that_nothing_would_heed_is_refused(judge, why):
    with pytest.raises(UserError, match=why):
        check_judge(judge)
    with pytest.raises(UserError, match=why):
        async with judging(judge):
            pass


async def test_without_an_endpoint_answers_are_compared_exactly():
    async with judging(JudgeConfig()) as judge:
        assert judge.name == "exact"
