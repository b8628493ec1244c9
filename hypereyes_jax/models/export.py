"""Trained weights for others to serve: a merged HF checkpoint, or a PEFT adapter beside the base model."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import writing, writing_directory
from hypereyes_jax.models.companions import COMPANION_FILES, check_companions, write_companions
from hypereyes_jax.models.hub import locate
from hypereyes_jax.models.lora import Lora, load_peft, merge
from hypereyes_jax.models.qwen3_vl import Params, load_hf, save_hf
from hypereyes_jax.models.storage import open_directory
from hypereyes_jax.runs.run_directory import MIRROR_INDEX

# The names that an export writes, those of its tensors while they are written included.
_MODEL_FILE = re.compile(
    "|".join(map(re.escape, ("config.json", "model.safetensors.index.json", MIRROR_INDEX, *COMPANION_FILES)))
    + r"|model(-\d{5}-of-\d{5})?\.safetensors(\.partial)?"
)


def export_merged(
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    lora: Lora | str | os.PathLike[str] | None = None,
    dtype: Any = None,
    temperature: float = 1.0,
) -> Path:
    """Write `base` with adapters merged in as a HF directory that transformers, vLLM and SGLang load.

    It takes the place of an earlier export, whole.

    Args:
      base: HF directory, hub id or URL of the weights the adapters were trained on; its tokenizer and processor files
        are copied.
      lora: adapters, or a PEFT directory; None only converts.
      dtype: of what is written; default: as stored in `base`.
      temperature: > 0, divides the last norm's weights, and with them all logits. A server that scores given tokens at
        temperature 1 then gives log-probs at this one. In bfloat16 each quotient is rounded, by up to 0.4 %.

    Raises ValueError if `out` is `base`, or the adapters do not fit the model; UserError if `out` holds anything else
    than a model; what `load_hf` raises.
    """
    base, out = locate(base), Path(out)
    refuse_other_files(out)
    out = Path(os.path.realpath(out))  # of a link, what it leads to gets the model
    if isinstance(base, Path) and os.path.realpath(out) == os.path.realpath(base):
        raise ValueError(f"{out} is the base model itself; choose another directory")
    check_companions(open_directory(base), COMPANION_FILES)  # before the weights, which may take long
    config, params = load_hf(base, dtype)
    if lora is not None:
        params = merge(params, lora if isinstance(lora, Lora) else load_peft(lora, config))
    params = cooled(params, temperature)
    with writing_directory(out) as draft:  # nothing of an older model in `out` may stand beside this one's files
        write_companions(open_directory(base), draft, config, None)
        save_hf(draft, config, params)
    return out


def refuse_other_files(out: Path) -> None:
    """Raises UserError if a model would take the place of anything but a directory that holds a model, or nothing."""
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UserError(f"{out} exists and is not a directory. Choose another directory for the model.")
    with writing(out):
        others = [path for path in sorted(out.iterdir()) if path.is_dir() or not _MODEL_FILE.fullmatch(path.name)]
    if others:
        raise UserError(
            f"{out} holds {others[0].name}, which is not part of an exported model and would be deleted. Choose "
            "a new directory."
        )


def cooled(params: Params, temperature: float) -> Params:
    """Parameters whose logits are divided by a temperature: the last norm's weights are."""
    if temperature == 1:
        return params
    norm = params["norm"]
    return {**params, "norm": (norm.astype("float32") / temperature).astype(norm.dtype)}
