"""Our episodes played by tinker-cookbook's own rollout loop with its Qwen3-VL renderer, and a scripted model.

Needs `pip install tinker-cookbook` (an environment of its own is best) and then `pytest -m oracle tests/env`.
"""

import re
from importlib import resources
from pathlib import Path

import pytest

from hypereyes_jax.env import EpisodeConfig, ExactJudge, Question, SearchError, tool_call
from hypereyes_jax.env.actions import TextSearch
from hypereyes_jax.env.adapters.reset_step import SearchEnvironment
from hypereyes_jax.env.adapters.tinker import environment
from hypereyes_jax.env.tools.zoom import Zoom
from hypereyes_jax.errors import UserError
from tests.env.adapters.scenes import FLAGS, HALVES, ZOOM

pytestmark = pytest.mark.oracle

tinker = pytest.importorskip("tinker")
renderers = pytest.importorskip("tinker_cookbook.renderers.qwen3")
rollouts = pytest.importorskip("tinker_cookbook.rl.rollouts")
data_processing = pytest.importorskip("tinker_cookbook.rl.data_processing")

SHOWN = Question("shown", "Which?", (FLAGS,), ("Chad",))
LOOK = "<reason>I look.</reason>" + HALVES
TEXT = tool_call(TextSearch(("Chad",)))


class Sometimes:
    """A search service that fails the first times."""

    def __init__(self, library, failures):
        self.library, self.failures = library, failures

    async def text_search(self, query, k):
        if self.failures:
            self.failures -= 1
            raise SearchError("HTTP 503", transient=True)
        return await self.library.text_search(query, k)


class Scripted:
    """A `TokenCompleter`: each rollout's turns in order, known by how many assistant turns its prompt ends behind."""

    def __init__(self, tokenizer, turns, stop_reason="stop"):
        self.tokenizer, self.turns, self.stop_reason, self.prompts = tokenizer, turns, stop_reason, []

    async def __call__(self, model_input, stop, *, max_tokens=None):
        self.prompts.append(model_input)
        text = self.tokenizer.decode([t for chunk in model_input.chunks for t in getattr(chunk, "tokens", ())])
        ending = "" if self.stop_reason == "length" else "<|im_end|>"
        ids = self.tokenizer.encode(self.turns[text.count("<|im_start|>assistant") - 1] + ending)
        assert ending == "" or ids[-1] in stop
        from tinker_cookbook.completers import TokensWithLogprobs

        return TokensWithLogprobs(ids, [-0.5] * len(ids), self.stop_reason)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(str(resources.files("hypereyes_jax.assets") / "base")))


@pytest.fixture(scope="module", params=["Qwen3VLInstructRenderer", "Qwen3VLRenderer"])
def renderer(request, tokenizer):
    from transformers import Qwen2VLImageProcessor

    return getattr(renderers, request.param)(tokenizer, Qwen2VLImageProcessor(patch_size=16, merge_size=2))


def frugal(result, correct):
    return float(correct) - 0.1 * result.invocations


async def test_a_group_is_one_datum_a_rollout_with_a_mask_of_what_was_sampled(library, renderer, tokenizer):
    _, group = environment(library, ExactJudge(), renderer, tools=[Zoom()], reward=frugal)
    turns = [LOOK + ZOOM, TEXT, "<answer>Chad</answer>"]
    policy = Scripted(tokenizer, turns)
    played = await rollouts.do_group_rollout(group(SHOWN, 2), policy)
    assert played.get_total_rewards() == pytest.approx([0.7, 0.7])
    first = played.trajectories_G[0]
    assert [each.reward for each in first.transitions] == pytest.approx([0, 0, 0.7])
    assert first.stop_reason == "completed"
    assert first.transitions[-1].metrics["invocations"] == 3
    (datum,) = data_processing.trajectory_to_data(first, 1.0)  # what is not an extension would be a second one
    targets = datum.loss_fn_inputs["target_tokens"].to_torch().tolist()
    mask = datum.loss_fn_inputs["mask"].to_torch().tolist()
    sampled = tokenizer.decode([token for token, kept in zip(targets, mask, strict=True) if kept])
    assert sampled == "".join(f"{turn}<|im_end|>" for turn in turns)
    images = [chunk for chunk in datum.model_input.chunks if isinstance(chunk, tinker.types.ImageChunk)]
    assert len(images) == 1 + 2 + 1  # the question's, two crops that were searched, one that was shown enlarged
    text = tokenizer.decode([t for chunk in datum.model_input.chunks for t in getattr(chunk, "tokens", ())])
    assert text.count("<|im_end|>\n<|im_start|>user\n") == 3
    assert text.count("<|im_end|>\n<|im_start|>assistant\n") == 3
    assert "3. zoom:" in text
    assert "Niger" not in text
    assert "Togo" in text


def flat(chunks):
    """Tokens and images, one by one."""
    return [each for chunk in chunks for each in (getattr(chunk, "tokens", None) or [chunk])]


async def test_an_observation_is_rendered_as_the_renderer_itself_would(library, renderer, tokenizer):
    twin = SearchEnvironment(library, ExactJudge())
    messages = await twin.reset(SHOWN)
    shown = (await twin.step(LOOK)).messages
    whole = flat(renderer.build_generation_prompt([*messages, {"role": "assistant", "content": LOOK}, *shown]).chunks)
    env_class, _ = environment(library, ExactJudge(), renderer)
    env = env_class(SHOWN)
    prompt, stop = await env.initial_observation()
    action = [*tokenizer.encode(LOOK), *stop]
    seen = flat((await env.step(action)).next_observation.chunks)
    before = [*flat(prompt.chunks), *action]
    assert seen[: len(before)] == before
    found = seen[len(before) :]
    assert sum(not isinstance(each, int) for each in found) == 2
    assert found == whole[-len(found) :]


async def test_an_outage_is_played_again(library, renderer, tokenizer):
    from tinker_cookbook.rl.rollout_strategy import RetryOnFailure

    _, group = environment(Sometimes(library, 1), ExactJudge(), renderer)
    policy = Scripted(tokenizer, [TEXT, "<answer>Chad</answer>"])
    with pytest.raises(RuntimeError, match=r"the search failed: .*HTTP 503"):
        await rollouts.do_group_rollout(group(SHOWN, 1), policy)
    _, group = environment(Sometimes(library, 1), ExactJudge(), renderer)
    played = await rollouts.do_group_rollout(group(SHOWN, 1), policy, RetryOnFailure(max_retries=2))
    assert played.get_total_rewards() == [1.0]
    assert [error.error_type for error in played.rollout_errors] == ["RuntimeError"]


async def test_a_turn_that_was_cut_ends_the_episode_unless_it_has_answered(library, renderer, tokenizer):
    _, group = environment(library, ExactJudge(), renderer)
    cut = await rollouts.do_group_rollout(group(SHOWN, 1), Scripted(tokenizer, ["I thi"], "length"))
    assert cut.trajectories_G[0].stop_reason == "max_tokens"
    assert cut.get_total_rewards() == [0.0]
    answered = Scripted(tokenizer, ["<answer>Chad</answer> and"], "length")
    assert (await rollouts.do_group_rollout(group(SHOWN, 1), answered)).get_total_rewards() == [1.0]


async def test_limits_of_the_rollout_loop_hold(library, renderer, tokenizer):
    from tinker_cookbook.rl.rollout_limits import RolloutLimits

    policy = Scripted(tokenizer, [TEXT] * 9)
    _, group = environment(library, ExactJudge(), renderer, limits=RolloutLimits(max_turns=2))
    played = await rollouts.do_group_rollout(group(SHOWN, 1), policy)
    assert len(played.trajectories_G[0].transitions) == 2
    _, group = environment(library, ExactJudge(), renderer, EpisodeConfig(max_turns=3))
    played = await rollouts.do_group_rollout(group(SHOWN, 1), policy)
    assert len(played.trajectories_G[0].transitions) == 3
    assert played.trajectories_G[0].stop_reason == "max_turns"


def test_a_renderer_without_a_stop_token_is_refused(library, tokenizer):
    from tinker_cookbook.renderers.role_colon import RoleColonRenderer

    with pytest.raises(UserError, match="RoleColonRenderer ends a turn with"):
        environment(library, ExactJudge(), RoleColonRenderer(tokenizer))


async def test_the_code_of_the_guide_runs(renderer):
    page = (Path(__file__).parents[3] / "docs" / "guides" / "your_trainer.md").read_text()
    (code,) = re.findall(r"```\{code-block\} python\n(.*?)```", page.partition("## tinker-cookbook")[2], re.S)
    names = {"renderer": renderer}
    exec(code, names)
    (group,) = names["Questions"]().get_batch(0)[:1]
    (env, *_) = await group.make_envs()
    prompt, _ = await env.initial_observation()
    assert prompt.length > 100
