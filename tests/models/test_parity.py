"""Against transformers' torch implementation, in float32, element by element."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from hypereyes_jax.models.qwen3_vl import Qwen3VLConfig, forward, load_hf, text, vision, weights
from hypereyes_jax.models.qwen3_vl.weights import map_weights
from hypereyes_jax.processing import PatchedImage, pack_inputs, patchify
from tests.models.torch_reference import (
    CONFIGS,
    frame_tokens,
    hf_inputs,
    hf_model,
    image_tokens,
    photo,
    saved,
    temporal_patches,
    words,
)

# float32 sums in another order differ by ~2e-6 of the largest value. At 2e-5 the finest of the mistakes in
# test_mutations.py (tanh for exact GELU in the mergers, 1.6e-4) still shows.
TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-3
# since version 5, transformers holds experts as [E, out, in]; files, and version 4, hold [E, in, out]
EXPERTS_ARE_TURNED = int(transformers.__version__.split(".")[0]) >= 5
FAST_COMPILE = {"xla_backend_optimization_level": 0}  # tiny models: compiling takes longest


def samples_of(config: Qwen3VLConfig) -> list[tuple[list[int], list[PatchedImage], int]]:
    """(tokens, images, how many of the last are frames of one video): images at the start, in between, at the end."""
    unit = config.vision.pixel_multiple
    still = functools.partial(patchify, config=config.vision, min_pixels=unit**2, max_pixels=30 * unit**2)
    frames = temporal_patches([photo(3 * unit, 2 * unit, seed) for seed in range(5)], config.vision)
    image, frame = image_tokens(config), frame_tokens(config)
    video = list(itertools.chain.from_iterable(words(2, i) + frame for i in range(len(frames))))
    return [
        (
            words(4, 1) + image + words(3, 2) + image + words(5, 3),
            [still(photo(7 * unit, unit, 1)), still(photo(2 * unit, 5 * unit, 2))],
            0,
        ),
        (words(6, 4), [], 0),
        (image + words(3, 5) + video + words(2, 6), [still(photo(3 * unit, 3 * unit, 3)), *frames], len(frames)),
    ]


def recording_scan(record: list) -> Any:
    """`jax.lax.scan` that also notes the carry after every step: what each layer hands to the next."""

    def scan(body, init, xs):
        def noted(carry, x):
            carry, y = body(carry, x)
            return carry, (carry, y)

        carry, (carries, ys) = jax.lax.scan(noted, init, xs)
        record.append(carries)
        return carry, ys

    return scan


class _Lax:
    """`jax.lax` with another scan, for one module."""

    def __init__(self, scan: Any):
        self.scan = scan

    def __getattr__(self, name: str) -> Any:
        return getattr(jax.lax, name)


class _Jax:
    def __init__(self, scan: Any):
        self.lax = _Lax(scan)

    def __getattr__(self, name: str) -> Any:
        return getattr(jax, name)


def next_token_loss(logits: Any, tokens: Any, lib: Any) -> Any:
    """Mean of -log softmax at the next token, for one unpadded sample, in jax or torch."""
    picked = (
        lib.take_along_dim(logits[:-1], tokens[1:, None], -1)
        if lib is torch
        else jnp.take_along_axis(logits[:-1], tokens[1:, None], -1)
    )
    total = torch.logsumexp(logits[:-1], -1) if lib is torch else jax.nn.logsumexp(logits[:-1], -1)
    return (total - picked[:, 0]).mean()


def close(ours: np.ndarray, reference: np.ndarray, tolerance: float, what: str) -> None:
    assert ours.shape == reference.shape, what
    error = np.abs(ours - reference).max() / np.abs(reference).max()
    assert error <= tolerance, f"{what}: differs by {error:.1e} of the largest value"


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_layers_and_gradients_match_transformers(name, tmp_path, monkeypatch):
    config = CONFIGS[name]
    reference = hf_model(config)
    loaded_config, params = load_hf(saved(reference, tmp_path))
    assert loaded_config == config
    samples = samples_of(config)
    inputs = pack_inputs(config, [(tokens, images) for tokens, images, _ in samples])

    record: list = []
    fake = _Jax(recording_scan(record))
    monkeypatch.setattr(text, "jax", fake)
    monkeypatch.setattr(vision, "jax", fake)
    lengths = [len(hf_inputs(config, tokens, images)["input_ids"][0]) for tokens, images, _ in samples]

    def loss(params):
        record.clear()
        logits = forward(params, config, inputs)
        each = [
            next_token_loss(logits[b, :n], jnp.asarray(inputs.tokens_BT[b, :n]), jax) for b, n in enumerate(lengths)
        ]
        return sum(each), (logits, tuple(record))

    (_, (logits, recorded)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST_COMPILE)(
        params
    )
    vision_layers, decoder_layers = recorded[0][0], recorded[1][0]

    seen: dict[str, list] = {"vision": [], "decoder": []}

    def note(kind):
        return lambda _module, _inputs, output: seen[kind].append(output[0] if isinstance(output, tuple) else output)

    for block in reference.model.visual.blocks:
        block.register_forward_hook(note("vision"))
    for layer in reference.model.language_model.layers:
        layer.register_forward_hook(note("decoder"))
    segment = np.asarray(inputs.vision.segment_RL).reshape(-1)
    first_image = 0
    taps = len(config.vision.deepstack_visual_indexes)
    total = 0.0
    for b, (tokens, images, frames) in enumerate(samples):
        seen["vision"].clear()
        seen["decoder"].clear()
        arguments = hf_inputs(config, tokens, images, video_frames=frames)
        expected = reference(**arguments).logits[0]
        total = total + next_token_loss(expected, arguments["input_ids"][0], torch)
        here = np.concatenate(
            [np.flatnonzero(segment == first_image + i + 1) for i in range(len(images))] or [np.zeros(0, int)]
        )
        # transformers runs its tower once for the stills and once for the video
        still_patches = sum(len(image.patches) for image in images[: len(images) - frames])
        passes = [places for places in (here[:still_patches], here[still_patches:]) if len(places)]
        for call, places in enumerate(passes):
            for i in range(config.vision.depth):
                theirs = seen["vision"][call * config.vision.depth + i].detach().numpy()
                ours = np.asarray(vision_layers[i]).reshape(len(segment), -1)[places]
                close(ours, theirs, TOLERANCE, f"sample {b}, vision layer {i}")
        for i, theirs in enumerate(seen["decoder"]):
            ours = np.asarray(decoder_layers[i, b, : lengths[b]])
            if i < taps and images:
                visual = np.asarray(inputs.visual_index_BT[b, : lengths[b]]) >= 0
                # transformers adds DeepStack features after the layer, this project at its end
                ours, theirs = ours[~visual], theirs.reshape(lengths[b], -1)[~visual]
            theirs = theirs.detach().numpy().reshape(ours.shape)
            close(ours, theirs, TOLERANCE, f"sample {b}, decoder layer {i}")
        close(np.asarray(logits[b, : lengths[b]]), expected.detach().numpy(), TOLERANCE, f"sample {b}, logits")
        first_image += len(images)

    total.backward()
    theirs = dict(reference.named_parameters())

    def check(path, weight, gradient):
        tensors = []
        for hf_name in weight.hf_names():
            tensor = theirs[hf_name].grad.numpy()
            turned = EXPERTS_ARE_TURNED and weight.axes[1:2] == ("expert",)
            tensors.append(weight.from_hf(tensor.swapaxes(1, 2) if turned else tensor))
        expected = np.stack(tensors) if weight.stacked else tensors[0]
        close(np.asarray(gradient), expected, GRADIENT_TOLERANCE, f"gradient of {path}")

    map_weights(check, weights(config), gradients)


@pytest.mark.parametrize("name", ["dense", "tied, merge 3"])
def test_bfloat16_loses_no_more_than_it_does_in_transformers(name, tmp_path):
    config = CONFIGS[name]
    reference = hf_model(config)
    path = saved(reference, tmp_path)
    _, params = load_hf(path, jnp.bfloat16)
    samples = samples_of(config)
    inputs = pack_inputs(config, [(tokens, images) for tokens, images, _ in samples])
    logits = jax.jit(functools.partial(forward, config=config, inputs=inputs), compiler_options=FAST_COMPILE)(params)
    half = hf_model(config).to(torch.bfloat16)
    ours, theirs = [], []
    with torch.no_grad():
        for b, (tokens, images, frames) in enumerate(samples):
            arguments = hf_inputs(config, tokens, images, video_frames=frames)
            exact = reference(**arguments).logits[0].numpy()
            ours.append(np.asarray(logits[b, : len(exact)], np.float32) - exact)
            theirs.append(half(**arguments).logits[0].float().numpy() - exact)
    mean = [np.abs(np.concatenate(errors)).mean() for errors in (ours, theirs)]
    # roundings differ, their size must not: a softmax or a norm in half precision would more than double it
    assert 0 < mean[0] <= 1.5 * mean[1], mean
