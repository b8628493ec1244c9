"""Models on disk as the commands read and write them: HF layout, tokenizer included, whole or absent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import draft_of, writing

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from hypereyes_jax.configs.model import Qwen3VLConfig
    from hypereyes_jax.models.qwen3_vl import Params
    from hypereyes_jax.processing import ChatFormat

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def load_model(
    path: Path, dtype: Any = "float32", mesh: Mesh | None = None
) -> tuple[Qwen3VLConfig, Params, ChatFormat]:
    """The model in `path`, on the default device or shared out over a mesh.

    Raises UserError if `path` holds no model, a damaged one or one of another family, or one that the mesh does not
    divide.
    """
    from hypereyes_jax.configs.model import Qwen3VLConfig
    from hypereyes_jax.models.qwen3_vl import load_hf
    from hypereyes_jax.models.sharding import param_shardings

    for name in ("config.json", "tokenizer.json"):
        if not (path / name).exists():
            raise UserError(f"{path} holds no {name}. Give the directory of a checkpoint in Hugging Face layout.")
    described = Qwen3VLConfig.from_hf(path)
    chat = _chat_format(path)  # before the weights: its files are small, and as easily damaged
    sharding = None if mesh is None else param_shardings(described, mesh)
    config, params = load_hf(path, dtype, sharding)
    return config, params, chat


def _chat_format(path: Path) -> ChatFormat:
    from transformers import AutoTokenizer

    from hypereyes_jax.processing import ChatFormat

    try:
        for name in _TOKENIZER_FILES:
            if (path / name).exists():
                text = (path / name).read_text(encoding="utf-8")
                if name.endswith(".json") and not isinstance(json.loads(text), dict):
                    raise TypeError("it is no JSON object")
        name = "tokenizer.json"
        return ChatFormat(AutoTokenizer.from_pretrained(path))
    except ImportError:
        raise
    except Exception as error:  # what is wrong with a tokenizer's content, its libraries say with any exception at all
        why = f"{type(error).__name__}: {error}".rstrip(".")
        raise UserError(
            f"{path / name} is damaged, or no tokenizer of Qwen3-VL ({why}). Fetch or make that checkpoint anew."
        ) from error


def save_model(
    path: Path,
    config: Qwen3VLConfig,
    params: Params,
    tokenizer_of: Path,
    dtype: str = "float32",
    *,
    write: bool = True,
) -> None:
    """Writes weights and config, and copies the tokenizer from `tokenizer_of`. Appears under its name when complete.

    Args:
      write: of several processes one writes, and the others, which must call this too, give it their part.
    """
    import jax

    from hypereyes_jax.models.qwen3_vl import save_hf

    if not write:
        save_hf(path, config, jax.tree.map(lambda x: x.astype(dtype), params), write=False)
        return
    draft = draft_of(path)
    with writing(path):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            save_hf(draft, config, jax.tree.map(lambda x: x.astype(dtype), params))
            for name in _TOKENIZER_FILES:
                if (tokenizer_of / name).exists():
                    shutil.copy(tokenizer_of / name, draft / name)
            shutil.rmtree(path, ignore_errors=True)
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # of a failure; a full disk gets its room back
