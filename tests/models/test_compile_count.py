"""Image grids never enter jit: what a batch holds does not decide which program runs."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from hypereyes_jax.models.qwen3_vl import hidden_states, init_params
from hypereyes_jax.processing import pack_inputs, patchify
from tests.models.test_parity import FAST_COMPILE
from tests.models.torch_reference import CONFIGS, image_tokens, photo, words
from tests.random_weights import random_params


def test_batches_of_different_image_shapes_share_one_program():
    config = CONFIGS["dense"]
    params = random_params(config)
    unit = config.vision.pixel_multiple
    still = functools.partial(patchify, config=config.vision, min_pixels=unit**2, max_pixels=16 * unit**2)
    traced = 0

    def run(params, inputs):
        nonlocal traced
        traced += 1
        return hidden_states(params, config, inputs)

    compiled = jax.jit(run, compiler_options=FAST_COMPILE)
    batches = [[(7, 2), (2, 7)], [(4, 3), (5, 3)], [(13, 1), (3, 5)], [(4, 4), (1, 16)]]
    results = []
    for shapes in batches:
        images = [still(photo(w * unit, h * unit, 0)) for w, h in shapes]
        samples = [(image_tokens(config) + words(4, i), [image]) for i, image in enumerate(images)]
        results.append(np.asarray(compiled(params, pack_inputs(config, samples, length=32))))
    assert traced == 1
    assert all(np.isfinite(result).all() for result in results)


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_deeper_model_is_no_larger_program(name):
    """One scan serves all layers, so 48 of them compile in the time of 4 (`benchmarks/backbone.py` says how long)."""
    sizes = []
    for depth in (4, 48):
        config = CONFIGS[name]
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, num_hidden_layers=depth))
        params = jax.eval_shape(functools.partial(init_params, config=config), jax.random.key(0))
        inputs = pack_inputs(config, [(words(8, 0), [])])
        run = jax.jit(functools.partial(hidden_states, config=config, inputs=inputs))
        sizes.append(len(run.lower(params).as_text()))
    assert sizes[1] < 1.01 * sizes[0]
