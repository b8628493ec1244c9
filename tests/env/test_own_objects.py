"""A user's judge and search backend, given to commands by name."""

import pytest
from PIL import Image

from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.service import judging
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.search.services import connected
from hypereyes_jax.env.types import Question, SearchHit
from hypereyes_jax.errors import UserError

SOURCE = """
from hypereyes_jax.env.types import SearchHit

class Backend:
    async def text_search(self, query, k):
        return [SearchHit("mine", query, 1.0)]

    async def image_search(self, image, k):
        raise ZeroDivisionError("a defect")

class Judge:
    name = "mine"

    async def judge(self, question, answer):
        return answer == question.answers[0]

def same_length(question, answer):
    return len(answer) == len(question.answers[0])

async def later(question, answer):
    return True

def of_one(question):
    return True

def talkative(question, answer):
    return "correct"
"""
QUESTION = Question("q", "?", (), ("abc",))


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(SOURCE)
    return path


async def test_a_backend_of_one_s_own_is_searched(own):
    async with connected(SearchConfig(service="object", backend=f"{own}:Backend")) as (backend, metrics):
        assert await backend.text_search("q", 3) == [SearchHit("mine", "q", 1.0)]
        assert metrics.summary()["searches"] == 1
        assert backend.engine.startswith(f"{own}:Backend:")
        with pytest.raises(ZeroDivisionError):
            await backend.image_search(Image.new("RGB", (8, 8)), 3)


@pytest.mark.parametrize(
    ("name", "why"),
    [("", "needs --search.backend module:object"), (":Judge", "not a search backend"), (":Nothing", "has no")],
)
async def test_what_is_no_backend_is_told(own, name, why):
    config = SearchConfig(service="object", backend=f"{own}{name}" if name else "")
    with pytest.raises(UserError, match=why):
        async with connected(config):
            pass


@pytest.mark.parametrize(
    ("name", "answer", "verdict"),
    [("Judge", "abc", True), ("Judge", "abd", False), ("same_length", "xyz", True), ("later", "x", True)],
)
async def test_a_judge_of_one_s_own_judges(own, name, answer, verdict):
    async with judging(JudgeConfig(object=f"{own}:{name}")) as judge:
        assert await judge.judge(QUESTION, answer) is verdict
        assert await judge.judge(QUESTION, None) is False


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"object": "{own}:of_one"}, "not a judge"),
        ({"object": "{own}:talkative"}, "gave 'correct'"),
        ({"object": "{own}:SOURCE_OF_NOTHING"}, "has no"),
        ({"object": "{own}:Judge", "url": "http://x"}, "not both"),
    ],
)
async def test_what_is_no_judge_is_told(own, config, why):
    config = {name: value.format(own=own) for name, value in config.items()}
    with pytest.raises(UserError, match=why):
        async with judging(JudgeConfig(**config)):
            pass
