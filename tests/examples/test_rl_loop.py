"""The example runs as it stands, and does what it says."""

import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np

from hypereyes_jax.configs.rollout import EngineConfig

PATH = Path(__file__).parents[2] / "examples" / "rl_loop.py"


async def test_two_steps_train_and_publish_what_they_trained(capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("rl_loop_example", PATH)
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, example)  # dataclasses look their module up
    spec.loader.exec_module(example)
    runs = []

    def start(*arguments):
        runs.append(real(*arguments))
        return runs[0]

    def few_programs(slots, context, **pixels):
        return EngineConfig(slots=4, context=context, image_shapes=((1, 64), (1, 256)), **pixels).exact()

    monkeypatch.setattr(example, "EngineConfig", few_programs)  # compiling takes most of the test's time
    real = example.start
    monkeypatch.setattr(example, "start", start)
    history = await example.train(steps=2, prompts=1, group=4)
    assert [figures["refused"] for figures in history] == [0, 0]
    assert all(np.isfinite(figures["grad_norm"]) for figures in history)
    assert any(figures["grad_norm"] > 0 for figures in history)
    (run,) = runs
    assert run.engine.version == 2
    assert int(run.state.step) == 2
    trained, _ = example.weights(run.state, "language")
    base = example.load_model(example.ASSETS / "base")[1]
    sampled_from = run.engine.params
    for (path, own), new, old in zip(
        jax.tree_util.tree_leaves_with_path(sampled_from), jax.tree.leaves(trained), jax.tree.leaves(base), strict=True
    ):
        np.testing.assert_array_equal(own, new)
        if "layers" in jax.tree_util.keystr(path) and "vision" not in jax.tree_util.keystr(path):
            assert not np.array_equal(own, old)
    assert "step 1: accuracy" in capsys.readouterr().out
