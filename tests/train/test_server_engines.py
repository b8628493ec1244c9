"""Rollouts of a training sampled by a server, which gets each version of the adapter."""

import asyncio
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.models.lora import load_peft
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.adapters import adapter_rules
from hypereyes_jax.train.server_engines import ServerEngines, check_sampler_server
from hypereyes_jax.train.settings import SamplerServerConfig
from hypereyes_jax.train.sizes import MINIATURE_RL
from tests.learner.small import CONFIG
from tests.random_weights import random_lora
from tests.serving import SGLangMimic, VLLMMimic, text

PIXELS = {"min_pixels": MINIATURE_RL.min_pixels, "max_pixels": MINIATURE_RL.max_pixels}


@contextmanager
def serving(mimic):
    """The mimic on a loop of its own, because pushing an adapter blocks its caller; yields its address."""
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    urls = []

    async def serve():
        server = TestServer(mimic.app)
        await server.start_server()
        urls.append(str(server.make_url("")).rstrip("/"))
        started.set()
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.mark.parametrize(("kind", "mimic"), [("sglang", SGLangMimic), ("vllm", VLLMMimic)])
async def test_each_version_of_the_adapter_is_pushed_and_sampled_with(tmp_path, kind, mimic):
    lora = random_lora(CONFIG, adapter_rules(2, 4.0))
    served = mimic(CONFIG, PIXELS)
    with serving(served) as url:
        config = SamplerServerConfig(url, kind)
        engines = ServerEngines(config, CONFIG, MINIATURE_RL, RunDirectory(tmp_path), Processes())
        for version in (3, 4, 5):
            engines.set_weights(None, jax.tree.map(lambda x, v=version: x * v, lora), version)
            async with engines.running() as generator:
                session = await generator.open(0, SamplingConfig(top_p=1.0, max_new_tokens=3), (29,))
                turn = await session.turn(text(4))
            asked = served.requests[-1]
            name = asked["lora_path"] if kind == "sglang" else asked["model"]
            assert re.fullmatch(rf"policy-v{version}-[0-9a-f]{{12}}", name)
            assert set(turn.sampled.version.tolist()) == {version}
            assert generator.counts[0].waiting_seconds == 0
        assert len(served.adapters) == 2  # of the two latest versions
        written = load_peft(served.adapters[name], CONFIG)
    for found, wanted in zip(jax.tree.leaves(written), jax.tree.leaves(lora), strict=True):
        np.testing.assert_array_equal(found, wanted * 5)
    assert sorted(path.name for path in (tmp_path / "sampler-adapters").iterdir()) == ["v4", "v5"]
    assert json.loads((tmp_path / "sampler-adapters" / "v5" / "adapter_config.json").read_text())["r"] == 2


def test_a_server_that_takes_no_adapter_ends_the_run_with_its_words(tmp_path):
    lora = random_lora(CONFIG, adapter_rules(2, 4.0))
    config = SamplerServerConfig("http://127.0.0.1:9", attempts=1)
    engines = ServerEngines(config, CONFIG, MINIATURE_RL, RunDirectory(tmp_path), Processes())
    with pytest.raises(UserError, match=r"does not take the adapter of version 1: .*started with adapters enabled"):
        engines.set_weights(None, lora, 1)


def test_servers_that_can_not_sample_for_a_training_are_refused():
    adapters = replace(MINIATURE_RL, learner=replace(MINIATURE_RL.learner, train="lora"))
    check_sampler_server(SamplerServerConfig("http://h:1"), adapters)
    for config, sizes, words in (
        (SamplerServerConfig(in_flight=3), adapters, "add --sampler-server.url"),
        (SamplerServerConfig("h:1"), adapters, "not a valid URL"),
        (SamplerServerConfig("http://h:1"), MINIATURE_RL, "--sizes.learner.train lora"),
        (SamplerServerConfig("http://h:1", "vllm"), adapters, "--sizes.learner.tis-against truncated"),
    ):
        with pytest.raises(UserError, match=words):
            check_sampler_server(config, sizes)
