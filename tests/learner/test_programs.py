"""Steps and scoring go through a batch a micro-batch at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.training import LearnerConfig, PackConfig
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import pack
from hypereyes_jax.learner.programs import Program, Scoring, Step
from tests.learner.small import CONFIG, samples
from tests.random_weights import random_params

PACK = PackConfig(row_lengths=(64,), rows=1, vision=(4, 64), min_pixels=64, max_pixels=64 * 64)


class Device:
    """Puts micro-batches on the device, and counts how many are there: those whose results are not ready, and this."""

    def __init__(self):
        self.most, self._results = 0, []

    def put(self, micro):
        self._results = [each for each in self._results if not each.is_ready()]
        self.most = max(self.most, len(self._results) + 1)
        return jax.device_put(micro)

    def program(self, function, result):
        """A program that takes its time. `result` picks an array of what it gives."""

        def slow(*arguments):
            x = jax.lax.fori_loop(0, 20, lambda _, x: jnp.sin(x @ x), jnp.ones((400, 400)))
            return jax.tree.map(lambda leaf: leaf + 0 * x[0, 0].astype(leaf.dtype), function(*arguments))

        program = Program(None, slow, nowhere)

        def run(*arguments):
            given = program(*arguments)
            self._results.append(result(given))
            return given

        return run


def nowhere(*_):
    raise AssertionError("no places without a mesh")


def test_the_device_holds_the_micro_batch_that_is_computed_and_the_next():
    batch, device = pack(CONFIG, samples(6), PACK), Device()
    assert batch.count >= 5
    zeros = Program(None, jnp.zeros_like, nowhere)

    def gradients(sums, state, micro, m, weight, load):
        return sums + micro.weight_MBT.sum() / weight, {"last": m}

    def update(state, sums, metrics):
        return state, {"sum": sums} | metrics

    slow = device.program(gradients, lambda given: given[1]["last"])
    step = Step(device.put, zeros, slow, Program(None, update, nowhere))
    state = make_learner(CONFIG, LearnerConfig()).init(jax.random.key(0), random_params(CONFIG))
    _, figures = step(state.replace(trainable=jnp.float32(0)), batch)
    assert float(figures["sum"]) == pytest.approx(1.0)  # every micro-batch once, by its weight in the whole step
    assert int(figures["last"]) == sum(range(int(batch.count)))
    assert device.most == 2

    device = Device()
    slow = device.program(lambda params, lora, micro, t: micro.weight_MBT * t, lambda given: given)
    scoring = Scoring(device.put, slow)
    np.testing.assert_array_equal(scoring(None, batch, temperature=2.0), batch.weight_MBT * 2)
    assert device.most == 2


@pytest.mark.parametrize("kind", ["sft_step", "rl_step"])
def test_steps_of_any_number_of_micro_batches_run_the_same_programs(kind):
    learner = make_learner(CONFIG, LearnerConfig())
    state = learner.init(jax.random.key(0), random_params(CONFIG))
    compiled = []

    def note(event, duration, **_):
        compiled.append(event.endswith("backend_compile_duration"))

    counts = set()
    state, _ = getattr(learner, kind)(state, pack(CONFIG, samples(3), PACK))
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for number in (2, 3, 5):
            batch = pack(CONFIG, samples(number), PACK)
            counts.add((int(batch.count), len(batch.targets_MBT)))
            state, _ = getattr(learner, kind)(state, batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert len({used for used, _ in counts}) == 3
    assert len({room for _, room in counts}) > 1
    assert not any(compiled)
