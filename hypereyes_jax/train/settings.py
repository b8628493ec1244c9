"""What is tuned from run to run. Nothing here brings jax along: help must answer at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hypereyes_jax.configs.recipes import MINIATURE, MINIATURE_ROLLOUT, AdapterConfig
from hypereyes_jax.configs.training import RoutingReplay
from hypereyes_jax.data.selection import FirstReference
from hypereyes_jax.env.outages import OutageLimits
from hypereyes_jax.errors import SettingError


@dataclass(frozen=True)
class RlSettings:
    """What is tuned from run to run. Defaults are the miniature's; its group size, TRACE and OPD are the paper's."""

    steps: int = MINIATURE.steps
    """Number of optimiser steps."""
    prompts: int = MINIATURE_ROLLOUT.prompts
    """Number of questions in one step."""
    group: int = MINIATURE_ROLLOUT.group
    """Number of rollouts of each question."""
    oversampling: float = 1.0
    """Dynamic sampling: a step plays this many times the questions that it trains on, and groups whose rollouts all
    earned the same, which teach nothing, make room for others. 1 trains on every group."""
    learning_rate: float = MINIATURE.learner.optimizer.learning_rate
    """The learning rate, which stays constant. The paper's is 1e-6; a model this small takes larger steps."""
    opd_coef: float = MINIATURE.learner.opd_coef
    """Weight of on-policy distillation on failed rollouts; 0 leaves it out."""
    lora_rank: int = AdapterConfig.rank
    """Rank of the adapters, if --sizes.learner.train is lora."""
    lora_alpha: float = AdapterConfig.alpha
    """Alpha of the adapters: their output is scaled by alpha / rank."""
    ahead: int = 0
    """Number of steps whose rollouts may start before the current step has trained. With 0, every rollout is sampled by
    the weights that it trains, and a run can be replayed exactly. With more, rollouts go on while the learner trains, a
    long one is carried over to a later step, and the loss weighs each token by the ratio of the learner's to the
    sampler's probability."""
    max_staleness: int | None = None
    """Number of versions by which the weights that started a group may lag behind those that it trains; a step waits
    for a group that would exceed it. Without one, it is one more than --settings.ahead, so that a long rollout may be a
    step late."""
    routing_replay: RoutingReplay = "off"
    """Whose choice of experts a mixture of experts trains with. With `off` the router chooses anew, and a close
    decision may differ from the one made when the token was sampled; `sampler` takes the experts that the sampler
    chose; `trainer` takes those of the learner's own forward pass, also where the backward pass recomputes it."""
    gap_warning: float = 0.05
    """Mean distance between the learner's and the sampler's log-probs of a step's tokens, in nats, above which a
    warning is logged; 0 logs none."""
    checkpoint_every: int = MINIATURE.checkpoint_every
    """Number of steps between two checkpoints."""
    checkpoint_minutes: float = 10.0
    """Number of minutes after which a checkpoint is written in any case; 0 counts steps only."""
    save_every: int = 0
    """Number of steps between two models written to `models/step-N/`; 0 writes a model only at the end."""
    metrics: tuple[str, ...] = ()
    """Further metrics of the rollouts that are logged: module:object or file.py:object, functions of an episode's
    result and the judge's verdict."""
    keep_groups: int = 2
    """Number of rollout groups of each step that are kept for the report; 0 keeps none."""
    keep_mib: int = 256
    """MiB that the kept rollouts may take; beyond that, the rollouts of some steps are removed, evenly over the run."""
    outages: OutageLimits = field(default_factory=OutageLimits)
    """How many rollouts may fail for reasons that are not the policy's before the run ends."""
    seed: int = MINIATURE.seed
    """Seed of the order of questions and of all sampling."""

    def __post_init__(self) -> None:
        if not 1 <= self.oversampling <= 16:
            raise SettingError(f"RlSettings.oversampling must be from 1 to 16, got {self.oversampling}")

    @property
    def staleness_limit(self) -> int:
        """Versions that a group may be behind when it is trained on."""
        return self.ahead + 1 if self.max_staleness is None else self.max_staleness

    @property
    def questions_played(self) -> int:
        """Number of questions that are played in one step."""
        return math.ceil(self.prompts * self.oversampling - 1e-9)


@dataclass(frozen=True)
class SelectionRule:
    """The rule by which candidates are selected to be trained on."""

    select: bool = True  # those that the policy fails at first and solves within five tries; False = all of them
    references: Path | None = None  # a file that names them and their initial references, instead of trying
    first_reference: FirstReference = "cheapest"  # which success of the tries the reference is of


@dataclass(frozen=True)
class SftSettings:
    """What is tuned from run to run. Defaults are the miniature's."""

    epochs: int = 4
    """Number of passes over the demonstrations."""
    batch: int = 32
    """Number of demonstrations in one step."""
    weighting: Literal["token", "trajectory"] = "token"
    """What weighs the same in the loss: every token of a step, as in the authors' training, or every demonstration."""
    learning_rate: float = 3e-3
    """Peak learning rate; it falls to a tenth along a cosine, as the paper's 1e-4 does. A model this small takes larger
    steps."""
    lora_rank: int = AdapterConfig.rank
    """Rank of the adapters on every linear map of the decoder."""
    lora_alpha: float = AdapterConfig.alpha
    """Alpha of the adapters: their output is scaled by alpha / rank."""
    dropout: float = AdapterConfig.dropout
    """Share of an adapter's inputs that is dropped in training."""
    checkpoint_every: int = 5
    """Number of steps between two checkpoints."""
    checkpoint_minutes: float = 10.0
    """Number of minutes after which a checkpoint is written in any case; 0 counts steps only."""
    save_every: int = 0
    """Number of steps between two models written to `models/step-N/`; 0 writes a model only at the end."""
    loader_threads: int = 0
    """Number of threads that read and resize the images of a batch ahead of its step; 0 takes one a core, up to 8."""
    seed: int = 42
    """Seed of the order of demonstrations, of the adapters and of their dropout."""


@dataclass(frozen=True)
class TeacherServerConfig:
    """A server that scores as the teacher, so that its weights need no room here.

    A sample that it does not score in time, or scores as other tokens, is trained on without distillation, and counted.
    """

    url: str = ""
    """Address of the server, like http://host:30000; without one there is no server."""
    kind: Literal["sglang", "vllm"] = "sglang"
    """Kind of server: SGLang's `/generate`, or vLLM's `/inference/v1/generate` (0.28 or newer, for images)."""
    model: str = ""
    """Name of a LoRA adapter that SGLang holds, or of a model that vLLM serves; without one, the model that the server
    was started with."""
    key_env: str = "TEACHER_API_KEY"
    """Name of the environment variable that holds the server's key, if it wants one."""
    temperature: float = 1.0
    """Temperature of the server's log-probs, which must be the student's. `hypereyes export --temperature` makes such a
    model."""
    in_flight: int = 16
    """Number of samples that are sent at a time."""
    timeout: float = 120.0
    """Seconds that one request may take."""
    attempts: int = 3
    """Number of tries of a request that fails (no connection, 5xx, 429, too slow, not JSON), with growing pauses of up
    to 5 s."""
    deadline: float = 300.0
    """Seconds that all samples of a step may take; those not scored by then are not distilled."""


@dataclass(frozen=True)
class SamplerServerConfig:
    """A server that runs the checkpoint and samples the rollouts in place of engines here. Each step it is sent the
    adapter, which it reads from the run's directory.
    """

    url: str = ""
    """Address of the server, like http://host:30000; without one, this run's own engines sample."""
    kind: Literal["sglang", "vllm"] = "sglang"
    """Kind of server: SGLang, started with --enable-lora, or vLLM, started with --enable-lora, --logprobs-mode
    processed_logprobs and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."""
    key_env: str = "SAMPLER_API_KEY"
    """Name of the environment variable that holds the server's key, if it wants one."""
    in_flight: int = 64
    """Number of requests that are sent at a time."""
    timeout: float = 600.0
    """Seconds that one turn may take."""
    attempts: int = 3
    """Number of tries of a request that fails, with growing pauses."""
