"""Checkpoints as people have them: what transformers reads and computes is what counts."""

from __future__ import annotations

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import torch
from safetensors.numpy import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from hypereyes_jax.errors import UserError
from hypereyes_jax.models.qwen3_vl import forward, load_hf, save_hf
from hypereyes_jax.models.tensor_files import DTYPES, CheckpointError, all_finite
from hypereyes_jax.processing import pack_inputs
from tests.models.torch_reference import CONFIGS, words
from tests.random_weights import random_params

EMBED = "model.language_model.embed_tokens.weight"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def written(path, name="dense", dtype=jnp.float32, **options):
    config = CONFIGS[name]
    params = random_params(config, 0, dtype)
    save_hf(path, config, params, **options)
    return config, params


def rewrite(path, change):
    tensors = load_file(path / SINGLE)
    change(tensors)
    save_file(tensors, path / SINGLE)


def edit_config(path, **fields):
    raw = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(raw | fields))


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("equal", [True, False])
def test_a_head_beside_the_embedding_it_is_tied_to_is_compared(tmp_path, equal):
    _, params = written(tmp_path, "tied, merge 3")
    head = np.asarray(params["embed"]).copy()
    head[-1, -1] += 0 if equal else 1e-3
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": head}))
    if equal:
        same(load_hf(tmp_path)[1], params)
    else:
        with pytest.raises(CheckpointError, match=r"lm_head\.weight: differs from .*embed_tokens"):
            load_hf(tmp_path)


def test_an_embedding_that_is_stored_as_the_head_it_is_tied_to_is_read(tmp_path):
    _, params = written(tmp_path, "tied, merge 3")
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors.pop(EMBED)}))
    same(load_hf(tmp_path)[1], params)


def test_a_head_that_is_missing_has_the_cure(tmp_path):
    written(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(
        CheckpointError, match=r"set tie_word_embeddings in config\.json; else .*\n  lm_head.weight: miss"
    ):
        load_hf(tmp_path)


def test_shards_in_a_folder_below_are_read(tmp_path):
    _, params = written(tmp_path)
    (tmp_path / "parts").mkdir()
    names = dict.fromkeys(load_file(tmp_path / SINGLE), "parts/a.safetensors")
    (tmp_path / SINGLE).rename(tmp_path / "parts" / "a.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": names}))
    same(load_hf(tmp_path)[1], params)


def test_frequencies_that_are_computed_from_the_config_are_not_read(tmp_path):
    _, params = written(tmp_path)
    names = ("model.language_model.rotary_emb.inv_freq", "model.visual.rotary_pos_emb.inv_freq")
    rewrite(tmp_path, lambda tensors: tensors.update({name: np.ones(8, np.float32) for name in names}))
    same(load_hf(tmp_path)[1], params)


def both(path):
    """The same model as one file and as shards with an index."""
    config, params = written(path, shard_bytes=60_000)
    index = (path / INDEX).read_text()
    save_hf(path / "single", config, params)
    (path / "single" / SINGLE).rename(path / SINGLE)
    (path / INDEX).write_text(index)
    return config, params


def test_a_single_file_beside_equal_shards_is_read(tmp_path):
    _, params = both(tmp_path)
    same(load_hf(tmp_path)[1], params)


def test_a_single_file_beside_shards_that_differ_is_refused_naming_both(tmp_path):
    both(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors["model.language_model.norm.weight"].__iadd__(1))
    with pytest.raises(CheckpointError, match=f"both {SINGLE} and the shards of {INDEX}"):
        load_hf(tmp_path)


def test_a_single_file_beside_an_index_without_its_shards_is_read(tmp_path):
    _, params = both(tmp_path)
    for shard in tmp_path.glob("model-*.safetensors"):
        shard.unlink()
    same(load_hf(tmp_path)[1], params)


@pytest.mark.parametrize("named", ["bfloat16", "float32", None])
def test_of_several_dtypes_the_named_one_is_taken_and_the_model_runs(tmp_path, named):
    config, params = written(tmp_path, dtype=jnp.bfloat16)

    def widen(tensors):
        for name in tensors:
            if "norm" in name:
                tensors[name] = tensors[name].astype(np.float32)

    rewrite(tmp_path, widen)
    raw = json.loads((tmp_path / "config.json").read_text())
    for part in (raw, raw["text_config"], raw["vision_config"]):
        part.pop("dtype")
    (tmp_path / "config.json").write_text(json.dumps(raw | ({"dtype": named} if named else {})))
    _, loaded = load_hf(tmp_path)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(loaded)} == {named or "bfloat16"}
    same(jax.tree.map(lambda x: x.astype(jnp.float32), loaded), jax.tree.map(lambda x: x.astype(jnp.float32), params))
    logits = forward(loaded, config, pack_inputs(config, [(words(6, 0), [])]))
    assert np.isfinite(np.asarray(logits, np.float32)).all()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "FIFO"])
@pytest.mark.parametrize("name", [SINGLE, "config.json"])
def test_what_is_no_regular_file_is_refused_by_name(tmp_path, name, make):
    written(tmp_path)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is not a regular file"):
        load_hf(tmp_path)


def test_per_expert_tensors_are_refused_in_a_few_lines(tmp_path):
    config, _ = written(tmp_path, "moe")

    def apart(tensors):
        for layer in range(config.text.num_hidden_layers):
            prefix = f"model.language_model.layers.{layer}.mlp.experts."
            gate_up, down = tensors.pop(prefix + "gate_up_proj"), tensors.pop(prefix + "down_proj")
            for expert in range(len(down)):
                gate, up = np.split(gate_up[expert].T, 2)
                for name, tensor in (("gate_proj", gate), ("up_proj", up), ("down_proj", down[expert].T)):
                    tensors[f"{prefix}{expert}.{name}.weight"] = np.ascontiguousarray(tensor)

    rewrite(tmp_path, apart)
    with pytest.raises(CheckpointError) as caught:
        load_hf(tmp_path)
    message = str(caught.value)
    assert len(message.splitlines()) == 6
    assert "layers.*.mlp.experts.*.down_proj.weight: surplus" in message
    assert "24 tensors, first model.language_model.layers.0.mlp.experts.0.down_proj.weight" in message
    assert "experts lie in tensors of their own" in message


def test_a_config_of_far_more_layers_than_the_file_has_is_refused_in_a_few_lines(tmp_path):
    written(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["text_config"]["num_hidden_layers"] = 4000
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="missing") as caught:
        load_hf(tmp_path)
    assert len(str(caught.value)) < 3000


def header(path, change):
    data = (path / SINGLE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    change(entries)
    raw = json.dumps(entries).encode()
    (path / SINGLE).write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])


NORM = "model.language_model.norm.weight"


@pytest.mark.parametrize(
    "entry",
    [
        {"data_offsets": [-128, 0]},
        {"data_offsets": [0, 128]},  # another tensor's bytes
        {"data_offsets": [1 << 62, (1 << 62) + 128]},
        {"data_offsets": [None, 128]},
        {"data_offsets": [0.0, 128.0]},
        {"data_offsets": "0 128"},
        {"shape": [-32]},
        {"shape": [32, -1]},
        {"shape": [1 << 40, 1 << 40]},
        {"shape": None},
        {"dtype": ["F32"]},
        {"shape": [1] * 40 + [32]},
        {"shape": [0, 10**3000], "data_offsets": [0, 0]},
        {"shape": [2**61 - 1] * 2000},
        {"dtype": "x" * 10**6},
    ],
)
def test_a_header_that_cannot_be_is_refused_at_once(tmp_path, entry):
    written(tmp_path)
    header(tmp_path, lambda entries: entries[NORM].update(entry))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable safetensors file") as caught:
        load_hf(tmp_path)
    assert len(str(caught.value)) < 1000 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda raw: raw.replace(b'"dtype": "F32"', b'"dtype": "F16", "dtype": "F32"', 1),
            "dtype stands in it more than",
        ),
        (lambda raw: raw[:-1] + b', "x": 1, "x": 2}', "x stands in it more than once"),
        (lambda raw: b"\xef\xbb\xbf" + raw, "not a readable safetensors file"),
        (lambda raw: raw.decode().encode("utf-16"), "not a readable safetensors file"),
    ],
)
def test_a_header_that_readers_take_differently_is_refused(tmp_path, change, message):
    written(tmp_path)
    data = (tmp_path / SINGLE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    raw = change(json.dumps(json.loads(data[8 : 8 + length])).encode())
    (tmp_path / SINGLE).write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])
    with pytest.raises(CheckpointError, match=message):
        load_hf(tmp_path)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(tmp_path / SINGLE, "np")


def test_a_file_that_goes_on_behind_its_last_tensor_is_refused(tmp_path):
    written(tmp_path)
    with (tmp_path / SINGLE).open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has data after its last tensor"):
        load_hf(tmp_path)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(tmp_path / SINGLE, "np")


def quantised(path, block=(8, 4), change=lambda tensors: None):
    """Writes the decoder's linear maps in FP8 with a scale a block; gives what transformers makes of each."""
    expected = {}

    def quantise(tensors):
        for name in list(tensors):
            if "language_model.layers" not in name or "norm" in name or tensors[name].ndim < 2:
                continue
            weight = torch.tensor(tensors[name])
            rows, columns = weight.shape[-2:]
            blocks = weight.reshape(-1, rows // block[0], block[0], columns // block[1], block[1])
            scales = blocks.abs().amax((2, 4)) / 448
            values = (blocks / scales[:, :, None, :, None]).to(torch.float8_e4m3fn)
            values = values.reshape(weight.shape)
            scales = scales.reshape(*weight.shape[:-2], *scales.shape[-2:])
            expected[name] = Fp8Dequantize(None)._dequantize_one(values, scales).numpy()
            tensors[name] = values.view(torch.uint8).numpy().view(jnp.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scales.numpy()
        change(tensors)

    rewrite(path, quantise)
    edit_config(path, quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(block)})
    return expected


@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("piece", [None, 700])
def test_fp8_blocks_are_multiplied_by_their_scales_as_transformers_does(tmp_path, monkeypatch, name, piece):
    from hypereyes_jax.models.qwen3_vl import checkpoint
    from hypereyes_jax.models.qwen3_vl.weights import flat_weights

    if piece:
        monkeypatch.setattr(checkpoint, "_PIECE_BYTES", piece)
    config, params = written(tmp_path, name)
    expected = quantised(tmp_path)
    _, loaded = load_hf(tmp_path, jnp.float32)
    seen = 0
    for path, weight in flat_weights(config):
        *parents, key = path.split("/")
        leaf = loaded
        for parent in [*parents, key]:
            leaf = leaf[parent]
        for layer, hf in enumerate(weight.hf_names()):
            if hf in expected:
                np.testing.assert_array_equal(leaf[layer], weight.from_hf(expected[hf]), err_msg=hf)
                seen += 1
    assert seen == len(expected) > 10
    assert not np.array_equal(loaded["layers"]["q"], params["layers"]["q"]), "nothing was quantised"


def test_blocks_that_do_not_divide_a_weight_end_with_a_smaller_one():
    from hypereyes_jax.models.tensor_files import BlockScaledTensor

    @dataclasses.dataclass
    class Held:
        array: np.ndarray

        shape = property(lambda self: self.array.shape)
        dtype = property(lambda self: self.array.dtype)

        def rows(self, first, last):
            return self.array[first:last]

    scales = np.array([[1, 10], [100, 1000]], np.float32)
    tensor = BlockScaledTensor(Held(np.ones((5, 3), jnp.float8_e4m3fn)), Held(scales), (3, 2))
    expected = [[1, 1, 10]] * 3 + [[100, 100, 1000]] * 2
    assert tensor.scale_shape() == (2, 2)
    np.testing.assert_array_equal(tensor.rows(0, 5), expected)
    np.testing.assert_array_equal(tensor.rows(2, 4), expected[2:4])


def test_without_a_dtype_fp8_becomes_what_the_config_names(tmp_path):
    written(tmp_path, dtype=jnp.bfloat16)
    rewrite(tmp_path, lambda tensors: tensors.update({k: v.astype(np.float32) for k, v in tensors.items()}))
    quantised(tmp_path)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(load_hf(tmp_path)[1])} == {"bfloat16"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.language_model.layers.0.mlp.up_proj.weight_scale_inv"),
            r"up_proj\.weight_scale_inv is missing",
        ),
        (
            lambda t: t.update({"model.language_model.layers.0.mlp.up_proj.weight_scale_inv": np.ones((1, 1), "f4")}),
            r"up_proj\.weight_scale_inv: has shape \(1, 1\)",
        ),
    ],
)
def test_fp8_without_fitting_scales_is_refused_by_name(tmp_path, change, message):
    written(tmp_path)
    quantised(tmp_path, change=change)
    with pytest.raises(CheckpointError, match=message):
        load_hf(tmp_path)


def test_fp8_that_the_config_does_not_mention_is_refused(tmp_path):
    written(tmp_path)
    quantised(tmp_path)
    edit_config(tmp_path, quantization_config=None)
    with pytest.raises(CheckpointError, match=r"stored in FP8, but config\.json has no quantization_config"):
        load_hf(tmp_path)


def remote(path, system):
    for file in path.iterdir():
        system.pipe_file(f"/bucket/model/{file.name}", file.read_bytes())
    return "memory://bucket/model"


def test_a_remote_checkpoint_is_read_by_ranges(tmp_path, monkeypatch):
    import fsspec

    from hypereyes_jax.models.qwen3_vl import checkpoint

    config, params = written(tmp_path, shard_bytes=60_000)
    url = remote(tmp_path, fsspec.filesystem("memory"))
    read = []
    cat = fsspec.implementations.memory.MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **options):
        data = cat(self, path, start, end, **options)
        read.append((path, len(data)))
        return data

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "cat_file", counted)
    monkeypatch.setattr(checkpoint, "_PIECE_BYTES", 2000)
    again, loaded = load_hf(url)
    assert again == config
    same(loaded, params)
    shards = [size for path, size in read if path.endswith(".safetensors")]
    largest = max(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert max(shards) < largest / 2, "a shard was read whole"


def test_a_checkpoint_in_a_key_value_store_of_tensorstore_is_read(tmp_path, monkeypatch):
    import tensorstore

    from hypereyes_jax.models import storage

    config, params = written(tmp_path)
    store = tensorstore.KvStore.open("memory://model/").result()
    for file in tmp_path.iterdir():
        store[file.name] = file.read_bytes()
    monkeypatch.setattr(tensorstore.KvStore, "open", lambda url: Opened(store))
    again, loaded = load_hf("gs://bucket/model")
    assert again == config
    same(loaded, params)
    del store["config.json"]
    with pytest.raises(FileNotFoundError, match=r"gs://bucket/model/config\.json"):
        load_hf("gs://bucket/model")
    file = storage.open_directory("gs://bucket/model").file(SINGLE)
    size = (tmp_path / SINGLE).stat().st_size
    assert (file.holds(size), file.holds(size + 1)) == (True, False)
    assert file.read(size - 4, size + 4) == (tmp_path / SINGLE).read_bytes()[-4:]
    assert file.read(size + 1, size + 4) == b""


@dataclasses.dataclass
class Opened:
    value: object

    def result(self):
        return self.value


def test_a_checkpoint_in_a_bucket_of_s3_is_read(tmp_path, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    config, params = written(tmp_path)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        system = s3fs.S3FileSystem()
        system.mkdir("models")
        for file in tmp_path.iterdir():
            system.pipe_file(f"models/dense/{file.name}", file.read_bytes())
        again, loaded = load_hf("s3://models/dense")
        assert again == config
        same(loaded, params)
        with pytest.raises(FileNotFoundError, match=r"s3://models/none/config\.json"):
            load_hf("s3://models/none")
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_remote_place_that_is_not_there_has_one_sentence():
    with pytest.raises(ValueError, match="nosuch") as caught:
        load_hf("nosuch://bucket/model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.bool_])
def test_weights_of_another_type_are_refused_by_it(tmp_path, dtype):
    written(tmp_path)
    name = "model.language_model.norm.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({name: tensors[name].astype(dtype)}))
    with pytest.raises(CheckpointError, match=r"norm\.weight is stored as \w+, and weights are read as F64, F32, F16"):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("pytorch_model.bin", "save it again by save_pretrained, which writes safetensors"),
        ("model-00001-of-00002.safetensors", r"without model\.safetensors\.index\.json: fetch that, too"),
        ("model.fp16.safetensors", r"It holds model\.fp16\.safetensors: give the checkpoint in Hugging Face layout"),
        ("model.gguf", r"holds weights in GGUF, for llama\.cpp\. Give the checkpoint that they were made of"),
        ("pytorch_model_fsdp.bin", "holds weights in pickles, which are never read. Load it in transformers"),
        ("__0_0.distcp", r"the shards of a checkpoint of PyTorch's FSDP\. Merge them: accelerate merge-weights"),
        ("mp_rank_00_model_states.pt", r"a checkpoint of DeepSpeed\. Convert it: python zero_to_fp32\.py"),
        ("training_args.bin", "Download the checkpoint again"),
        ("notes", "Download the checkpoint again"),
    ],
)
def test_weights_that_are_not_there_are_told_with_the_cure_for_what_is(tmp_path, name, cure):
    written(tmp_path)
    (tmp_path / SINGLE).rename(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"lacks model\.safetensors .*{cure}"):
        load_hf(tmp_path)


def test_a_link_to_weights_that_are_not_there_is_told(tmp_path):
    written(tmp_path)
    (tmp_path / SINGLE).unlink()
    (tmp_path / SINGLE).symlink_to(tmp_path / "blobs")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a link to a file that is not there"):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("rename", "cure"),
    [
        (lambda name: f"base_model.model.{name}", r"PEFT gives them\. Merge the adapter by merge_and_unload"),
        (lambda name: name.replace("q_proj.weight", "q_proj.base_layer.weight"), "PEFT gives them"),
        (lambda name: name.replace("model.visual.", "vision_tower."), "another model, gives them.*save it as"),
    ],
)
def test_names_that_a_wrapper_gave_are_told_with_the_cure(tmp_path, rename, cure):
    written(tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    save_file({rename(name): value for name, value in tensors.items()}, tmp_path / SINGLE)
    with pytest.raises(CheckpointError, match=rf"does not match its config\.json\. .*names that .*{cure}") as caught:
        load_hf(tmp_path)
    assert len(str(caught.value).splitlines()) <= 14


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}".replace(".mlp.", "._fsdp_wrapped_module.mlp."),
        lambda name: name.replace("layers.0.", "layers.0._checkpoint_wrapped_module."),
        lambda name: name.replace("lm_head.", "model.lm_head."),
        lambda name: name.removeprefix("model."),  # of the class without a head, and of the old ones
        lambda name: f"model.{name}" if name.startswith("model.") else name,
        lambda name: name.replace("model.language_model.", "model.").replace("model.visual.", "visual."),
        lambda name: (
            name.replace("model.language_model.", "language_model.model.")
            .replace("lm_head.", "language_model.lm_head.")
            .replace("model.visual.", "visual.")
        ),
    ],
)
def test_names_that_can_be_meant_in_one_way_are_read(tmp_path, rename):
    _, params = written(tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    names = {rename(name): value for name, value in tensors.items()}
    assert names.keys() != tensors.keys()
    save_file(names, tmp_path / SINGLE)
    same(load_hf(tmp_path)[1], params)


@pytest.mark.parametrize("equal", [True, False])
def test_a_tensor_in_two_shards_is_read_if_it_is_the_same_in_both(tmp_path, equal):
    _, params = written(tmp_path, shard_bytes=60_000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    first, last = load_file(shards[0]), load_file(shards[-1])
    name = next(iter(first))
    last[name] = first[name].copy()
    last[name].flat[-1] += 0 if equal else 1
    save_file(last, shards[-1])
    if equal:
        same(load_hf(tmp_path)[1], params)
    else:
        both = rf"{name}: stands in {shards[0].name} and in {shards[-1].name} with other numbers"
        with pytest.raises(CheckpointError, match=both):
            load_hf(tmp_path)


def test_a_tensor_under_two_names_that_differ_is_refused(tmp_path):
    written(tmp_path)
    name = "model.language_model.norm.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({f"_orig_mod.{name}": tensors[name] + 1}))
    with pytest.raises(CheckpointError, match=rf"{name}: stands as .*norm.weight with other numbers"):
        load_hf(tmp_path)


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_weights_of_64_bits_are_read_as_far_as_the_type_goes(tmp_path, dtype):
    _, params = written(tmp_path)
    name = "model.language_model.norm.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({key: each.astype(np.float64) for key, each in tensors.items()}))
    same(load_hf(tmp_path, dtype)[1], jax.tree.map(lambda each: each.astype(dtype or jnp.float32), params))
    rewrite(tmp_path, lambda tensors: tensors.update({name: np.full_like(tensors[name], 1e300)}))
    with pytest.raises(CheckpointError, match=f"{name}: holds numbers that (float32|bfloat16) has not"):
        load_hf(tmp_path, dtype)


@pytest.mark.parametrize("piece", [64 << 20, 512])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, monkeypatch, piece, dtype, value):
    monkeypatch.setattr("hypereyes_jax.models.qwen3_vl.checkpoint._PIECE_BYTES", piece)
    written(tmp_path, dtype=dtype)
    names = [f"model.language_model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 2)]

    def spoil(tensors):
        for name in (*names, "model.language_model.norm.weight"):
            tensors[name] = tensors[name].copy()
            tensors[name].flat[-1] = value

    rewrite(tmp_path, spoil)
    with pytest.raises(CheckpointError, match="weights that are not finite") as error:
        load_hf(tmp_path, jnp.float32)
    message = str(error.value)
    assert f"layers.*.mlp.down_proj.weight: holds NaN or infinity (2 tensors, first {names[0]})" in message
    assert "model.language_model.norm.weight: holds NaN or infinity" in message
    assert message.count("\n") == 2


def test_weights_beyond_float16_are_refused_where_it_is_asked_for(tmp_path):
    written(tmp_path)
    name = "model.language_model.norm.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({name: np.full_like(tensors[name], 1e5)}))
    load_hf(tmp_path, jnp.bfloat16)
    with pytest.raises(CheckpointError, match=f"{name}: holds numbers that float16 has not"):
        load_hf(tmp_path, jnp.float16)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_number_of_a_type_is_told_from_those_that_are_not_finite(dtype):
    kind = np.dtype(f"u{dtype.itemsize}")
    every = np.arange(1 << 8 * min(2, dtype.itemsize), dtype=np.uint64) << 8 * max(0, dtype.itemsize - 2)
    values = every.astype(kind).view(dtype)
    wanted = np.isfinite(values.astype(np.float64))
    assert [all_finite(values[number : number + 1]) for number in range(len(values))] == wanted.tolist()
    assert all_finite(values[wanted])
