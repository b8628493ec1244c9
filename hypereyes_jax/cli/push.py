"""Push a run's model to the Hugging Face hub, with a model card made from the run's settings and metrics.

    hypereyes push runs/rl org/name
    hypereyes push runs/rl org/name@step-200 --step 200

The token comes from HF_TOKEN or from `hf auth login`.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular

_CARD = "README.md"


@dataclass(frozen=True)
class PushConfig:
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Directory of a run of `hypereyes sft` or `hypereyes rl`."""
    repository: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REPOSITORY")]
    """Repository to commit to, org/name or org/name@branch; it is made if it does not exist."""
    step: int | None = None
    """Step of the checkpoint whose weights are pushed; none pushes the run's finished `model/`."""
    private: bool = True
    """Make a new repository private."""
    message: str = ""
    """Commit message; none names the run and the step."""


def run(config: PushConfig) -> None:
    from hypereyes_jax.learner.run_weights import run_weights
    from hypereyes_jax.models.hub import hub_id, upload
    from hypereyes_jax.models.pretrained import save_model
    from hypereyes_jax.runs.model_card import model_card

    target = hub_id(config.repository)
    if target is None:
        raise UserError(f"{config.repository} is not a repository of the hub: give org/name or org/name@branch.")
    card = model_card(config.run, config.step)
    name = config.run.resolve().name
    # beside the run, whose disk has room for a model; elsewhere if nobody may write there
    place = config.run if os.access(config.run, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".push-", dir=place) as draft:
        folder = Path(draft) / "model"
        if config.step is not None:
            state = run_weights(config.run, config.step)
            save_model(folder, state.config, state.params, state.base, state.dtype, pixels=state.pixels)
        elif not (config.run / "model" / "config.json").exists():
            raise UserError(f"{config.run} has no finished model: give --step, the step of one of its checkpoints.")
        else:
            folder.mkdir()
            for file in (config.run / "model").iterdir():  # beside the card, without a second copy of the weights
                refuse_irregular(file)
                if file.name != _CARD:  # which would be written through the link
                    (folder / file.name).symlink_to(file.resolve())
        (folder / _CARD).write_text(card, encoding="utf-8")
        at = "" if config.step is None else f" at step {config.step}"
        url = upload(folder, target, config.message or f"{name}{at}", private=config.private)
    print(f"pushed {url}")
