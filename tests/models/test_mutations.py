"""The parity tolerance must notice the mistakes that ports of this model really make."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from hypereyes_jax.models.qwen3_vl import forward, load_hf, moe, vision
from hypereyes_jax.processing import pack_inputs
from tests.models.test_parity import FAST_COMPILE, TOLERANCE
from tests.models.torch_reference import CONFIGS, hf_inputs, hf_model, one_image_sample, saved


@pytest.fixture(scope="module", params=["dense", "moe"])
def case(request, tmp_path_factory):
    """(config, our parameters, inputs, transformers' logits) of one sample with an image."""
    config = CONFIGS[request.param]
    reference = hf_model(config)
    _, params = load_hf(saved(reference, tmp_path_factory.mktemp("hf")))
    tokens, image = one_image_sample(config)
    expected = reference(**hf_inputs(config, tokens, [image])).logits[0].detach().numpy()
    return config, params, pack_inputs(config, [(tokens, [image])]), expected


def error(case, *, params=None, inputs=None) -> float:
    config, own_params, own_inputs, expected = case
    run = jax.jit(functools.partial(forward, config=config), compiler_options=FAST_COMPILE)
    logits = run(params=params or own_params, inputs=inputs or own_inputs)
    return np.abs(np.asarray(logits)[0, : len(expected)] - expected).max() / np.abs(expected).max()


def test_the_model_as_it_is_passes(case):
    assert error(case) <= TOLERANCE


def test_deepstack_switched_off_is_noticed(case, monkeypatch):
    encode = vision.encode_images

    def without(*args, **kwargs):
        features = encode(*args, **kwargs)
        return features.replace(deepstack=features.deepstack * 0)

    monkeypatch.setattr("hypereyes_jax.models.qwen3_vl.model.encode_images", without)
    assert error(case) > TOLERANCE


def test_one_dimensional_positions_are_noticed(case):
    _, _, inputs, _ = case
    flat = np.broadcast_to(np.arange(inputs.tokens_BT.shape[1]), inputs.positions_3BT.shape)
    assert error(case, inputs=inputs._replace(positions_3BT=flat.astype(np.int32))) > TOLERANCE


def test_tanh_gelu_in_the_merger_is_noticed(case, monkeypatch):
    gelu = jax.nn.gelu
    monkeypatch.setattr(jax.nn, "gelu", lambda x, approximate: gelu(x, approximate=True))
    assert error(case) > TOLERANCE


def test_wrong_expert_order_is_noticed(case):
    config, params, _, _ = case
    if not config.text.moe:
        pytest.skip("dense")
    layers = params["layers"] | {"expert_down": params["layers"]["expert_down"][:, ::-1]}
    assert error(case, params=params | {"layers": layers}) > TOLERANCE


def test_gates_that_are_not_normalised_are_noticed(case, monkeypatch):
    config = case[0]
    if not config.text.moe:
        pytest.skip("dense")
    # top-k of probabilities scaled so that the division that follows has nothing left to do
    top_k = jax.lax.top_k

    class Lax:
        def __getattr__(self, name):
            return getattr(jax.lax, name)

        @staticmethod
        def top_k(x, k):
            values, index = top_k(x, k)
            return _Unnormalised(values), index

    class Jax:
        lax = Lax()

        def __getattr__(self, name):
            return getattr(jax, name)

    class Numpy:
        def __getattr__(self, name):
            return getattr(jax.numpy, name)

        @staticmethod
        def sum(x, axis=None, **kwargs):
            return 1.0 if isinstance(x, _Unnormalised) else jax.numpy.sum(x, axis=axis, **kwargs)

    class _Unnormalised:
        def __init__(self, values):
            self.values = values

        def __truediv__(self, _):
            return self.values

    monkeypatch.setattr(moe, "jax", Jax())
    monkeypatch.setattr(moe, "jnp", Numpy())
    assert error(case) > TOLERANCE
