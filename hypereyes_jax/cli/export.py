"""Write a model for other programs: adapters merged into their base model, as transformers, vLLM and SGLang load it.

    hypereyes export --checkpoint BASE --adapter ADAPTER --out DIR
    hypereyes export --run runs/rl --step 200 --out DIR

A run's weights can be exported at any of its checkpoints, even while the run goes on. To use an adapter as an adapter,
no export is needed: `hypereyes sft` leaves it in PEFT's own format in `adapter/`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypereyes_jax.cli.inputs import refuse_missing_inputs
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import remove_dead_drafts
from hypereyes_jax.runs.outputs import check_outputs, check_replaced_directories


@dataclass(frozen=True)
class ExportConfig:
    out: Path
    """The directory to write. An earlier export in it is replaced; one that holds anything else is refused."""
    checkpoint: str | None = None
    """Base model: a directory in Hugging Face layout, a hub id (org/name[@revision]) or a URL."""
    run: Path | None = None
    """Instead of a base model, the directory of a run of `hypereyes sft` or `hypereyes rl`, or its URL (gs://, s3://)."""
    step: int | None = None
    """Step of the run's checkpoint; none takes its newest."""
    adapter: str | None = None
    """PEFT adapter to merge: a directory, a hub id (org/name[@revision]) or a URL; none only converts."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of what is written; none keeps that of the base model, or that in which the run computes."""
    temperature: float = 1.0
    """Divide the logits by this, which makes a teacher for a server that scores at temperature 1."""


def run(config: ExportConfig) -> None:
    _check_settings(config)

    from hypereyes_jax.cli.bucket import local_run
    from hypereyes_jax.learner.run_weights import run_weights
    from hypereyes_jax.models.export import cooled, export_merged, refuse_other_files
    from hypereyes_jax.models.pretrained import save_model

    for folder in (config.out.parent, config.out):
        remove_dead_drafts(folder)
    refuse_other_files(config.out)
    if config.run is not None:
        with local_run(config.run, config.step) as folder:
            state = run_weights(folder, config.step)
        params = cooled(state.params, config.temperature)
        dtype = config.dtype or state.dtype
        save_model(Path(os.path.realpath(config.out)), state.config, params, state.base, dtype, pixels=state.pixels)
        print(f"wrote {config.out}, the weights of step {state.step}")
        return
    assert config.checkpoint is not None
    try:
        folder = export_merged(config.checkpoint, config.out, config.adapter, config.dtype, config.temperature)
    except FileNotFoundError as error:  # at a URL, which is opened only there
        raise UserError(f"there is no {error}. Give a checkpoint in Hugging Face layout, and a PEFT adapter.") from None
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"wrote {folder}")


def _check_settings(config: ExportConfig) -> None:
    """Raises UserError for settings that do not go together, and for inputs or outputs that can't be meant."""
    if not config.temperature > 0:
        raise UserError("--temperature must be positive")
    inputs = [Path(path) for path in (config.run, config.checkpoint, config.adapter) if path is not None]
    check_replaced_directories([config.out], inputs)
    check_outputs([config.out])
    if (config.run is None) == (config.checkpoint is None):
        raise UserError("give either --checkpoint (a base model) or --run (the directory of a run)")
    if config.run is not None and config.adapter is not None:
        raise UserError("--adapter belongs to --checkpoint: a run's own adapters are merged without it")
    if config.run is None and config.step is not None:
        raise UserError("--step belongs to --run: a base model has none")
    refuse_missing_inputs(config)
    adapter = None if config.adapter is None else Path(config.adapter)
    if adapter is not None and adapter.is_dir() and not (adapter / "adapter_config.json").exists():
        raise UserError(f"{adapter} holds no adapter_config.json. Give a PEFT directory.")
