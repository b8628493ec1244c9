"""Models on disk as the commands read and write them: HF layout, tokenizer included, whole or absent."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from hypereyes_jax.configs.hf_fields import GENERATION_IDS
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular, writing_directory
from hypereyes_jax.models.companions import (
    TOKENIZER_FILES,
    Pixels,
    check_companions,
    check_image_processor,
    processor_template,
    write_companions,
)
from hypereyes_jax.models.foreign_directories import LAYOUT, cure_of_place
from hypereyes_jax.models.hub import download, hub_id, locate
from hypereyes_jax.models.qwen3_vl import Params, load_hf, save_hf
from hypereyes_jax.models.qwen3_vl.checkpoint import read_model_config
from hypereyes_jax.models.sharding import param_shardings
from hypereyes_jax.models.storage import Directory, LocalDirectory, is_url, open_directory
from hypereyes_jax.models.tensor_files import CheckpointError, refuse_lfs_pointer
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.processing.tokenizer import load_tokenizer

_TOKENIZER_CURE = (
    "Load its tokenizer in transformers and save it there by save_pretrained; where it has none, copy the tokenizer's "
    "files of the model that it was made from (tokenizer.json, tokenizer_config.json and those of its chat template)."
)


def load_model(
    path: str | os.PathLike[str], dtype: Any = "float32", mesh: Mesh | None = None
) -> tuple[Qwen3VLConfig, Params, ChatFormat]:
    """The model in `path`, on the default device or shared out over a mesh.

    `path` is a directory in HF layout, a hub id like "org/name@revision", or the URL of a remote directory.

    The config also says which ids the tokenizer has no token for, and what ends and pads a sequence where the
    checkpoint's own `config.json` does not.

    Raises UserError if `path` holds no model, a damaged one or one of another family, or one that the mesh does not
    divide.
    """
    path = locate(path)
    directory = open_directory(path)
    if directory.exists("adapter_config.json"):
        has_weights = any(map(directory.exists, ("model.safetensors", "model.safetensors.index.json")))
        what = (
            "holds a model and an adapter beside it, which transformers would put onto the adapter's base. If the "
            "model is what is meant, move adapter_config.json out of there; else merge the adapter"
            if has_weights
            else "holds an adapter and no model. Merge it"
        )
        raise UserError(
            f"{path} {what} into its base by `hypereyes export --checkpoint BASE --adapter {path} --out DIR`, and give "
            "DIR."
        )
    for name in ("config.json", "tokenizer.json"):
        if not directory.exists(name):
            cure = _TOKENIZER_CURE if name == "tokenizer.json" else LAYOUT
            if isinstance(directory, LocalDirectory) and name == "config.json":
                cure = cure_of_place(directory.path)
            raise UserError(f"{path} holds no {name}. {cure}")
    _, model_config = read_model_config(directory)
    chat = load_chat_format(directory)  # before the weights: its files are small, and as easily damaged
    config = with_tokenizer(model_config, chat, directory)
    check_companions(directory)
    check_image_processor(directory, config)
    sharding = None if mesh is None else param_shardings(model_config, mesh)
    _, params = load_hf(path, dtype, sharding)
    return config, params, chat


def load_chat_format(directory: Directory) -> ChatFormat:
    """The tokenizer of a checkpoint, and how it renders a conversation.

    Raises UserError naming a damaged file, or saying why the tokenizer or its chat template can't be used.
    """
    with _local(directory) as path:
        name = "tokenizer.json"
        try:
            for name in TOKENIZER_FILES:
                if (path / name).exists():
                    refuse_irregular(path / name)
                    text = (path / name).read_text(encoding="utf-8")
                    refuse_lfs_pointer(text.encode(), f"{directory}/{name}")
                    if name.endswith(".json") and not isinstance(json.loads(text), dict):
                        raise TypeError("it is not a JSON object")
            name = "tokenizer.json"
            tokenizer = load_tokenizer(path)
            tokenizer.encode("Which?", add_special_tokens=False)
        except (ImportError, CheckpointError):
            raise
        except Exception as error:  # what is wrong with a tokenizer's content, its libraries say with any exception
            why = f"{type(error).__name__}: {error}".rstrip(".")
            raise UserError(
                f"{directory}/{name} is damaged, or no tokenizer of Qwen3-VL ({why}). "
                "Download or make that checkpoint again."
            ) from error
    own, of_processor = getattr(tokenizer, "chat_template", None), processor_template(directory)
    if of_processor is None:
        return _with_template(tokenizer, own, f"{directory}/tokenizer.json")
    chat = _with_template(tokenizer, of_processor, f"{directory}/chat_template.json")
    if own:
        opening = chat.opening
        chat = _with_template(tokenizer, own, f"{directory}/tokenizer.json")
        if chat.opening != opening:
            raise UserError(
                f"{directory} opens a turn of the model with {opening!r} by chat_template.json, and with "
                f"{chat.opening!r} by its tokenizer's chat template. Remove the one that is out of date."
            )
    return chat


def load_chat_format_of(checkpoint: str) -> ChatFormat:
    """`load_chat_format` of a directory, hub id or URL, of which nothing but the tokenizer is fetched.

    Raises UserError as that does, and for a checkpoint that is not there.
    """
    hub = None if Path(checkpoint).exists() else hub_id(checkpoint)
    place = checkpoint if hub is None else str(download(hub, files=TOKENIZER_FILES))
    directory = open_directory(place if is_url(place) else Path(place))
    if not directory.exists("tokenizer.json"):
        raise UserError(f"{checkpoint} holds no tokenizer.json. Give a checkpoint in Hugging Face layout, or a hub id.")
    return load_chat_format(directory)


def _with_template(tokenizer: Any, template: Any, where: str) -> ChatFormat:
    """The chat format, compared with a template. Raises UserError naming `where`, from which the template is."""
    tokenizer.chat_template = template
    try:
        return ChatFormat(tokenizer)
    except ValueError as error:
        raise UserError(f"{where} can't be used: {error}. Give another checkpoint.") from error


def with_tokenizer(config: Qwen3VLConfig, chat: ChatFormat, directory: Directory) -> Qwen3VLConfig:
    """The config with what only the tokenizer knows.

    Raises UserError if the two belong to different models.
    """
    vocabulary, tokenizer = chat.tokenizer.get_vocab(), chat.tokenizer
    placeholders = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    for name, token in placeholders.items():
        if (value := getattr(config, name)) != vocabulary[token]:
            raise UserError(
                f"{directory}/config.json has {name}={value}, but its tokenizer has {vocabulary[token]} "
                f"for {token}. The two belong to different models: download or make that checkpoint again."
            )
    ids = set(vocabulary.values())
    if max(ids) >= config.text.vocab_size:
        raise UserError(
            f"{directory}/tokenizer.json has a token of id {max(ids)}, but config.json has vocab_size="
            f"{config.text.vocab_size}. The two belong to different models: download or make that checkpoint again."
        )
    for name in GENERATION_IDS:
        value = getattr(config, name)
        far = [each for each in (value if isinstance(value, tuple) else (value,)) if each is not None]
        if far and max(far) >= config.text.vocab_size:
            raise UserError(
                f"{directory}/config.json has {name}={max(far)}, and no token of that id: vocab_size is "
                f"{config.text.vocab_size}. Correct it, or remove it and the tokenizer's is taken."
            )
    return replace(
        config,
        unused_token_ids=tuple(sorted(set(range(config.text.vocab_size)) - ids)),
        bos_token_id=config.bos_token_id if config.bos_token_id is not None else tokenizer.bos_token_id,
        eos_token_id=config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id,
        pad_token_id=config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id,
    )


@contextmanager
def _local(directory: Directory) -> Iterator[Path]:
    """The tokenizer's files on this machine."""
    if isinstance(directory, LocalDirectory):
        yield directory.path
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in (*TOKENIZER_FILES, "config.json"):
            if directory.exists(name):
                (Path(temporary) / name).write_bytes(directory.read_bytes(name))
        yield Path(temporary)


def save_model(
    path: Path,
    config: Qwen3VLConfig,
    params: Params,
    base: str | os.PathLike[str],
    dtype: str = "float32",
    *,
    pixels: Pixels | None = None,
    write: bool = True,
) -> None:
    """Writes weights, config, and the companion files of `base`. Appears under its name when complete.

    Args:
      pixels: areas that images were resized to in training, for the processor; default: what `base` says.
      write: of several processes one writes, and the others, which must call this too, give it their part.
    """
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    if not write:
        save_hf(path, config, params, write=False)
        return
    with writing_directory(path) as draft:
        save_hf(draft, config, params)
        write_companions(open_directory(locate(base)), draft, config, pixels)
