from functools import partial

import jax
import numpy as np
import pytest

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.launch.global_arrays import pack_for_all
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import pack, unpack
from hypereyes_jax.learner.teacher import LocalTeacher, Unscored
from hypereyes_jax.models.sharding import make_mesh, param_shardings
from tests.learner.small import CONFIG, PACK, samples
from tests.random_weights import random_params


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG, scale=3)


async def test_local_weights_score_the_sampled_tokens_of_each_sample_at_the_temperature(params):
    asked = samples(5)
    scored = await (teacher := LocalTeacher(CONFIG, params, PACK, 0.8)).score(asked)
    batch = pack(CONFIG, asked, PACK)
    learner = make_learner(CONFIG, LearnerConfig())
    wanted = unpack(batch, np.asarray(learner.score_logprobs(params, batch, temperature=0.8)))
    for number, sample in enumerate(asked):
        assert scored[number].dtype == np.float32
        assert len(scored[number]) == sum(len(chunk.tokens) for chunk in sample.chunks[1::2])
        np.testing.assert_array_equal(scored[number], wanted[number])
    assert teacher.unscored == Unscored()
    assert await teacher.score([]) == []


async def test_a_teacher_on_a_mesh_gives_the_scores_of_one_on_a_device(params):
    mesh = make_mesh(MeshConfig("one", "cpu", fsdp=1), jax.devices()[:1])
    placed = jax.device_put(params, param_shardings(CONFIG, mesh))
    there = LocalTeacher(CONFIG, placed, PACK, 0.8, mesh, partial(pack_for_all, Processes(mesh=mesh)))
    here = LocalTeacher(CONFIG, params, PACK, 0.8)
    asked = samples(5)
    for found, wanted in zip(await there.score(asked), await here.score(asked), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert await there.score([]) == []  # computes: other processes may have samples
