"""Write a model for other programs: adapters merged into their base model, as transformers, vLLM and SGLang load it.

An adapter that is to stay one needs no export: `hypereyes sft` leaves it in PEFT's own format in `adapter/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class ExportConfig:
    checkpoint: Path
    """Base model in HF layout."""
    out: Path
    """Directory to write."""
    adapter: Path | None = None
    """PEFT directory to merge; none = only convert."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of what is written; none = as stored."""
    temperature: float = 1.0
    """Other than 1: a teacher for a server that scores at temperature 1, with its logits already divided by this."""


def run(config: ExportConfig) -> None:
    from hypereyes_jax.models.export import export_merged

    if not config.temperature > 0:
        raise UserError("--temperature must be positive")
    for path, name in ((config.checkpoint, "config.json"), (config.adapter, "adapter_config.json")):
        if path is not None and not (path / name).exists():
            raise UserError(f"{path} holds no {name}. Give a {'model' if name == 'config.json' else 'PEFT'} directory.")
    try:
        written = export_merged(config.checkpoint, config.out, config.adapter, config.dtype, config.temperature)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"wrote {written}")
