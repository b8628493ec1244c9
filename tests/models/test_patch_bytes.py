"""The vision tower on images as bytes: the gradients are those of normalised patches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.learner.packing import pack
from hypereyes_jax.models.qwen3_vl.vision import encode_images
from tests.learner.small import CONFIG, PACK, samples
from tests.random_weights import random_params


@pytest.mark.slow  # two programs to compile
def test_gradients_through_bytes_are_those_through_normalised_patches():
    params = random_params(CONFIG)

    def gradient(kind):
        layout = dataclasses.replace(PACK, patch_dtype=kind, micro_batches=1, vision=(4, 144))
        inputs = pack(CONFIG, samples(2), layout).inputs
        vision = jax.tree.map(lambda x: x[0], inputs.vision)
        used = int((inputs.visual_index_BT >= 0).sum())  # rows beyond hold what padding makes

        def loss(params):
            return jnp.sum(jax.tree.leaves(encode_images(params, CONFIG, vision, None))[0][:used] ** 2)

        return jax.grad(loss)(params)["vision"]

    for wide, narrow in zip(*map(jax.tree.leaves, (gradient("float32"), gradient("uint8"))), strict=True):
        # a division may become a product on the device: one float32 rounding of each pixel
        np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=1e-5 * max(1e-6, float(jnp.abs(wide).max())))
