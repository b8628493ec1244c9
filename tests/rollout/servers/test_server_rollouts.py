"""The example against a small server that holds real weights, and against one that answers with its base model."""

import importlib.util
from pathlib import Path

import pytest

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.data.questions import synthesize
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.models.lora import merge, save_peft
from hypereyes_jax.rollout.servers.sglang import SGLangServer
from hypereyes_jax.rollout.servers.weight_check import EchoError
from tests.random_weights import random_lora, random_params
from tests.serving import SGLangMimic, mimicked, model_scores

PIXELS = {"min_pixels": 16 * 16 * 4, "max_pixels": 16 * 16 * 16}


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[3] / "examples" / "server_rollouts.py"
    spec = importlib.util.spec_from_file_location("server_rollouts_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SAMPLING = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=5)
    return module


async def test_an_adapter_is_pushed_checked_and_played_and_the_base_model_is_found_out(example, config, chat, tmp_path):
    params = random_params(config)
    lora = random_lora(config, scale=0.3)
    save_peft(tmp_path, config, lora)
    with_adapter = model_scores(config, merge(params, lora))

    def without(*prompt):
        return with_adapter(*prompt) - 1.0  # other weights, other log-probs

    world = World.load()
    questions = [each.question for each in synthesize(world, 2, seed=0)]
    async with mimicked(SGLangMimic(config, PIXELS), SGLangServer) as mimic:
        mimic.scores = lambda prompt, sent, images, adapter: (with_adapter if adapter else without)(
            prompt, sent, images, adapter
        )
        assert await example.push(mimic.client, tmp_path, config, params, chat, version=3) < 1e-3
        played, right = await example.play(mimic.client, chat, questions, WorldBackend(world))
        assert [trajectory.result.question for trajectory in played] == questions
        assert right == [False, False]  # it writes the same nonsense to everyone
        assert all(request["lora_path"].startswith("policy-v3-") for request in mimic.requests)
        mimic.scores = without
        with pytest.raises(EchoError, match="the server does not run policy-v4-"):
            await example.push(mimic.client, tmp_path, config, params, chat, version=4)
