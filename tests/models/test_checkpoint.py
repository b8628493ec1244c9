"""Weights in and out: exact, refused by name when wrong, streamed."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from hypereyes_jax.models.qwen3_vl import checkpoint as checkpoint_module
from hypereyes_jax.models.qwen3_vl import forward, init_params, load_hf, save_hf
from hypereyes_jax.models.tensor_files import CheckpointError
from hypereyes_jax.processing import pack_inputs
from tests.models.test_parity import FAST_COMPILE
from tests.models.torch_reference import CONFIGS, hf_inputs, one_image_sample
from tests.random_weights import random_params


@pytest.fixture
def dense(tmp_path):
    config = CONFIGS["dense"]
    params = random_params(config)
    save_hf(tmp_path, config, params)
    return config, params, tmp_path


def test_a_failed_write_says_why(tmp_path):
    """A numpy array's own `tofile` does not, when it can write only a part."""
    config = CONFIGS["dense"]
    params = random_params(config)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError) as error:  # noqa: PT011 (its number is what is asked for)
            save_hf(tmp_path, config, params)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["dense", "tied, merge 3", "moe", "moe tied, square experts"])
def test_transformers_loads_what_save_hf_wrote_and_agrees(name, tmp_path):
    config = CONFIGS[name]
    params = random_params(config, 3, scale=5)
    save_hf(tmp_path, config, params, shard_bytes=60_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    tokens, image = one_image_sample(config, columns=4, rows=2)
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(**hf_inputs(config, tokens, [image])).logits[0].numpy()
    run = jax.jit(forward, static_argnums=1, compiler_options=FAST_COMPILE)
    ours = np.asarray(run(params, config, pack_inputs(config, [(tokens, [image])])))[0, : len(expected)]
    assert np.abs(ours - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_save_and_load_give_the_same_bits(name, dtype, tmp_path):
    config = CONFIGS[name]
    params = random_params(config, 0, dtype)
    save_hf(tmp_path, config, params)
    again, loaded = load_hf(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {np.dtype(dtype)}


def test_streaming_in_pieces_gives_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "_PIECE_BYTES", 700)
    for name in ("dense", "moe", "moe tied, square experts"):
        config = CONFIGS[name]
        params = random_params(config)
        save_hf(tmp_path / name, config, params)
        jax.tree.map(np.testing.assert_array_equal, load_hf(tmp_path / name)[1], params)


def test_dtype_is_converted_on_the_way_in(dense):
    _, params, path = dense
    _, loaded = load_hf(path, jnp.bfloat16)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), loaded, params)


def test_everything_wrong_is_listed_by_name_at_once(dense):
    _config, _, path = dense
    tensors = load_file(path / "model.safetensors")
    del tensors["model.language_model.norm.weight"]
    tensors["model.language_model.layers.1.self_attn.q_proj.weight"] = np.zeros((3, 5), np.float32)
    tensors["model.language_model.layers.7.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_hf(path)
    message = str(caught.value)
    assert "model.language_model.norm.weight: missing" in message
    assert "layers.1.self_attn.q_proj.weight: has shape (3, 5), expected (64, 32)" in message
    assert "layers.7.mlp.up_proj.weight: surplus" in message


def test_a_truncated_file_is_named(dense):
    _, _, path = dense
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load_hf(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x05", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0not json", b"\x02\0\0\0\0\0\0\0[]"]
)
def test_a_file_that_is_no_safetensors_is_refused(dense, content):
    _, _, path = dense
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="model"):
        load_hf(path)


def test_a_pickle_is_never_read(dense):
    _, _, path = dense
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="never pickles"):
        load_hf(path)


def test_an_index_that_points_elsewhere_is_refused(dense):
    _, _, path = dense
    index = {"weight_map": {"x": "../model.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside"):
        load_hf(path)


_LOAD = """
import resource, sys, jax
from hypereyes_jax.models.qwen3_vl import load_hf
jax.numpy.zeros(1).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_, params = load_hf(sys.argv[1])
arrays = sum(x.nbytes for x in jax.tree.leaves(params))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, arrays // 1024)
"""


@pytest.mark.slow
def test_loading_three_gigabytes_holds_no_second_copy(tmp_path):
    import dataclasses

    text = dataclasses.replace(
        CONFIGS["moe"].text,
        vocab_size=151_936,
        hidden_size=1024,
        num_experts=32,
        moe_intermediate_size=768,
        num_hidden_layers=6,
        num_experts_per_tok=2,
    )
    config = dataclasses.replace(
        CONFIGS["moe"], text=text, vision=dataclasses.replace(CONFIGS["moe"].vision, out_hidden_size=1024)
    )
    params = init_params(jax.random.key(0), config)
    save_hf(tmp_path, config, params, shard_bytes=1 << 30)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert size >= 3e9
    assert len(list(tmp_path.glob("*.safetensors"))) >= 3
    largest = max(x.nbytes for x in (params["embed"], params["layers"]["expert_gate_up"][0]))
    del params
    result = subprocess.run(
        [sys.executable, "-c", _LOAD, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    extra, arrays = map(int, result.stdout.split())
    assert extra - arrays <= 1.3 * largest / 1024
