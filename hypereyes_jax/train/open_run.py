"""An RL run whose method is loaded and whose services are open: what its parts have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.train.distillation import Distillation
from hypereyes_jax.train.method import LoadedMethod, RlMethod
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.settings import RlSettings
from hypereyes_jax.train.types import TrainingRun


@dataclass(frozen=True)
class OpenRun:
    """What stays the same from the selection of questions to the last step."""

    run: TrainingRun
    rollouts: RolloutEngines
    model: Qwen3VLConfig
    settings: RlSettings
    method: RlMethod
    loaded: LoadedMethod  # what `method` makes


class OpenServices(NamedTuple):
    """What the loop asks outside of the policy."""

    backend: RecordedBackend
    judge: Judge
    distillation: Distillation
