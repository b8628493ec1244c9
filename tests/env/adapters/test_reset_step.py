"""Our episodes with `reset` and `step`: images, tools, reward at the end, masks."""

import pytest

from hypereyes_jax.env import EpisodeConfig, ExactJudge, Question, tool_call
from hypereyes_jax.env.actions import TextSearch
from hypereyes_jax.env.adapters.reset_step import SearchEnvironment, SyncSearchEnvironment
from hypereyes_jax.env.tools.zoom import Zoom
from tests.env.adapters.scenes import FLAGS, HALVES, ZOOM, Down

QUESTION = Question("q", "Which?", (FLAGS,), ("Chad",))


def kinds(message):
    return [part["type"] for part in message["content"]]


async def test_an_episode_with_images_and_tools_is_rewarded_at_its_end(library):
    def frugal(result, correct):
        return float(correct) - 0.1 * result.invocations

    environment = SearchEnvironment(library, ExactJudge(), tools=[Zoom()], reward=frugal)
    system, user = await environment.reset(QUESTION)
    assert "3. zoom:" in system["content"]
    assert kinds(user) == ["image", "text"]
    assert user["content"][0]["image"] is FLAGS
    found = await environment.step(HALVES + ZOOM)
    assert (found.reward, found.done, found.info) == (0.0, False, {})
    assert kinds(found.messages[0]) == ["image", "image", "image", "text"]
    ended = await environment.step("<answer>Chad</answer>")
    assert ended.messages == []
    assert ended.done
    assert ended.reward == pytest.approx(0.8)
    assert ended.info == {"stop": "answered", "rounds": 1, "invocations": 2, "correct": True, "masked": False}
    with pytest.raises(RuntimeError, match="reset"):
        await environment.step("<answer>Chad</answer>")
    assert environment.result().answer == "Chad"


async def test_a_failure_of_the_world_is_masked():
    environment = SearchEnvironment(Down(), ExactJudge())
    await environment.reset(QUESTION)
    ended = await environment.step(tool_call(TextSearch(("Chad",))))
    assert (ended.reward, ended.done, ended.info["masked"], ended.info["correct"]) == (0.0, True, True, None)


async def test_images_may_be_data_uris(library):
    _, user = await SearchEnvironment(library, ExactJudge(), image_urls=True).reset(QUESTION)
    assert user["content"][0]["image_url"]["url"].startswith("data:image/")


def test_gymnasium_s_signatures(library):
    questions = [QUESTION, Question("other", "Which?", (FLAGS,), ("Togo",))]
    environment = SyncSearchEnvironment(library, ExactJudge(), EpisodeConfig(max_turns=2), questions)
    drawn = [environment.reset(seed=seed)[1]["question_id"] for seed in range(8)]
    assert set(drawn) == {"q", "other"}
    assert environment.reset(seed=3)[1]["question_id"] == drawn[3]
    messages, info = environment.reset(options={"question": QUESTION})
    assert info == {"question_id": "q"}
    assert [message["role"] for message in messages] == ["system", "user"]
    messages, reward, terminated, truncated, _ = environment.step(HALVES)
    assert (len(messages), reward, terminated, truncated) == (1, 0.0, False, False)
    assert environment.step("<answer>Togo</answer>")[1:4] == (0.0, True, False)
    environment.reset(options={"question": QUESTION})
    environment.step(HALVES)
    assert environment.step(HALVES)[1:4] == (0.0, False, True)  # the last turn that it had
    environment.close()


def test_without_a_question_there_is_nothing_to_reset_to(library):
    environment = SyncSearchEnvironment(library, ExactJudge())
    with pytest.raises(ValueError, match="no question"):
        environment.reset()
    environment.close()
