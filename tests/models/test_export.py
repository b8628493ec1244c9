from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.models.export import export_merged
from hypereyes_jax.models.lora import merge, save_peft
from hypereyes_jax.models.qwen3_vl import forward, load_hf, save_hf
from hypereyes_jax.processing import pack_inputs
from tests.models.test_parity import FAST_COMPILE
from tests.models.torch_reference import CONFIGS
from tests.random_weights import random_lora, random_params


@pytest.fixture
def trained(tmp_path):
    config = CONFIGS["moe"]
    params = random_params(config)
    save_hf(tmp_path / "base", config, params)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    lora = random_lora(config, scale=1.0)
    return tmp_path, merge(params, lora), lora


def test_merged_weights_are_written_with_the_tokenizer_beside(trained):
    path, merged, lora = trained
    export_merged(path / "base", path / "out", lora)
    jax.tree.map(np.testing.assert_array_equal, load_hf(path / "out")[1], merged)
    assert (path / "out" / "tokenizer.json").exists()


def test_an_adapter_from_a_directory_merges_to_the_same(trained):
    path, merged, lora = trained
    save_peft(path / "adapter", CONFIGS["moe"], lora)
    export_merged(path / "base", path / "out", path / "adapter")
    jax.tree.map(np.testing.assert_array_equal, load_hf(path / "out")[1], merged)


def test_the_base_model_is_never_overwritten(trained):
    path, _, lora = trained
    with pytest.raises(ValueError, match="the base model itself"):
        export_merged(path / "base", path / "x" / ".." / "base", lora)


def test_an_export_replaces_an_earlier_one_whole(trained):
    path, _, _ = trained
    export_merged(path / "base", path / "out")
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "merges.txt"):
        (path / "out" / name).write_text("an older model's")
    export_merged(path / "base", path / "out")
    assert "an older model's" not in [file.read_text("latin-1") for file in (path / "out").iterdir()]
    assert sorted(each.name for each in path.iterdir()) == ["base", "out"]


def test_a_place_that_keeps_its_name_gets_the_files(trained, monkeypatch):
    path, merged, lora = trained
    (path / "volume").mkdir()
    (path / "volume" / "vocab.json").write_text("an older model's")
    (path / "out").symlink_to(path / "volume")
    export_merged(path / "base", path / "out", lora)
    names = {"config.json", "model.safetensors", "tokenizer.json"}
    assert names <= {each.name for each in (path / "volume").iterdir()}
    assert not {each.name for each in (path / "volume").iterdir()} & {"vocab.json", ".former"}
    assert (path / "out").is_symlink()
    (path / "here").mkdir()
    monkeypatch.chdir(path / "here")
    export_merged(path / "base", "", lora)
    assert {each.name for each in Path.cwd().iterdir()} == {each.name for each in (path / "volume").iterdir()}
    jax.tree.map(np.testing.assert_array_equal, load_hf(path / "here")[1], merged)


@pytest.mark.parametrize("make", [Path.touch, lambda place: place.symlink_to(place)])
def test_what_is_no_directory_is_no_place_for_an_export(trained, make):
    path, _, _ = trained
    make(path / "out")
    with pytest.raises(UserError, match=r"out exists and is not a directory"):
        export_merged(path / "base", path / "out")


@pytest.mark.parametrize("other", ["thesis.tex", ".git", "model.safetensors/x"])
def test_a_directory_of_other_things_is_no_place_for_an_export(trained, other):
    path, _, _ = trained
    file = path / "out" / other
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(UserError, match=r"not part of an exported model and would be deleted"):
        export_merged(path / "base", path / "out")
    assert file.exists()


def test_a_temperature_divides_all_logits(trained):
    path, _, _ = trained
    config, params = load_hf(path / "base")
    export_merged(path / "base", path / "out", temperature=0.8)
    found = load_hf(path / "out")[1]
    inputs = pack_inputs(config, [(list(range(12)), [])])
    run = jax.jit(forward, static_argnums=1, compiler_options=FAST_COMPILE)
    cooler, logits = (np.asarray(run(each, config, inputs)) for each in (found, params))
    np.testing.assert_allclose(cooler, logits / 0.8, rtol=1e-4, atol=1e-5)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, params)
