"""What other trainers and programs leave on a disk, given in place of a checkpoint."""

import shutil
from importlib import resources

import pytest

from hypereyes_jax.cli.inputs import refuse_missing_checkpoint
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.pretrained import load_model

BASE = resources.files("hypereyes_jax.assets") / "base"
VERL = r"shards of a checkpoint of verl\. Merge them: python -m verl\.model_merger merge .*--local_dir {place} "


def made(tmp_path, *names):
    for name in names:
        file = tmp_path / "run" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("names", "cure"),
    [
        (("model_world_size_2_rank_0.pt", "fsdp_config.json", "huggingface/config.json"), VERL),
        (
            ("actor/model_world_size_2_rank_0.pt", "actor/huggingface/config.json"),
            VERL.replace("{place}", "{place}/actor"),
        ),
        (("latest", "global_step500/mp_rank_00_model_states.pt", "zero_to_fp32.py"), "zero_to_fp32.py {place} OUT"),
        (("pytorch_model_fsdp_0/__0_0.distcp",), "accelerate merge-weights {place} OUT"),
        (("latest_checkpointed_iteration.txt", "iter_0000100/common.pt"), "a checkpoint of Megatron. Convert it"),
        (("Q4_K_M.gguf", "mmproj.gguf"), "weights in GGUF, for llama.cpp. Give the checkpoint that they were made of"),
        (("consolidated.00.pth", "params.json"), "weights in pickles, which are never read"),
        (
            (
                "snapshots/ab1/config.json",
                "snapshots/ab1/model.safetensors",
                "refs/main",
                "blobs/ab",
            ),  # the hub's cache
            "holds a checkpoint in folders: give {place}/snapshots/ab1",
        ),
        (
            ("checkpoint-5/config.json", "checkpoint-5/model.safetensors", "trainer_state.json"),
            "holds a checkpoint in folders: give {place}/checkpoint-5",
        ),
        (
            ("model/config.json", "model/model.safetensors", "best/config.json", "best/model.safetensors"),
            "holds checkpoints in folders: give {place}/best, {place}/model",
        ),
        (("notes.txt",), "Give the directory of a checkpoint in Hugging Face layout"),
    ],
)
def test_a_directory_is_told_by_what_wrote_it(tmp_path, names, cure):
    place = made(tmp_path, *names)
    with pytest.raises(UserError, match=rf"holds no config\.json\. .*{cure.format(place=place)}"):
        load_model(place)
    with pytest.raises(UserError, match=rf"--checkpoint {place} holds no config\.json\. .*{cure.format(place=place)}"):
        refuse_missing_checkpoint("--checkpoint", str(place))


def test_a_file_or_nothing_in_place_of_a_directory_is_told(tmp_path):
    shutil.copytree(str(BASE), tmp_path / "base")
    with pytest.raises(UserError, match="It is a file: give the directory it lies in"):
        load_model(tmp_path / "base" / "model.safetensors")
    with pytest.raises(UserError, match=r"holds weights in GGUF, for llama\.cpp"):
        load_model(made(tmp_path, "m.gguf") / "m.gguf")
    with pytest.raises(UserError, match="There is nothing at that place: check the name"):
        load_model(tmp_path / "gone")
