"""What is tuned from run to run. Nothing here brings jax along: help must answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hypereyes_jax.configs.recipes import MINIATURE, MINIATURE_ROLLOUT, AdapterConfig
from hypereyes_jax.env.search.config import StoreMode, Transport, WorldSearch


@dataclass(frozen=True)
class RlSettings:
    """What is tuned from run to run. Defaults are the miniature's; its group size, TRACE and OPD are the paper's."""

    steps: int = MINIATURE.steps
    prompts: int = MINIATURE_ROLLOUT.prompts
    """Questions a step."""
    group: int = MINIATURE_ROLLOUT.group
    """Rollouts a question."""
    learning_rate: float = MINIATURE.learner.optimizer.learning_rate
    """Constant. The paper's is 1e-6; a model this small takes larger steps."""
    opd_coef: float = MINIATURE.learner.opd_coef
    checkpoint_every: int = MINIATURE.checkpoint_every
    """A checkpoint is written every so many steps."""
    checkpoint_minutes: float = 10.0
    """A checkpoint is also written when the last one is so many minutes old; 0 = by steps only."""
    keep_groups: int = 2
    """Groups of rollouts that are kept of each step, to be looked at in the report; 0 = none."""
    keep_mib: int = 256
    """Space that the kept rollouts may take; beyond it, steps between others are thinned out."""
    latency: float = 0.2
    """Seconds a search of the miniature world takes."""
    search: Transport = "http"
    """In the miniature world: over a real HTTP server on loopback, or in this process."""
    search_store: str | Path | None = None
    """A file, or postgresql://..., that its searches are recorded to and replayed from; none = every search is made."""
    search_mode: Annotated[StoreMode, tyro.conf.EnumChoicesFromValues] = StoreMode.REPLAY_THEN_LIVE
    """With a store: live (leave it alone), record (ask always), replay-strict (never ask), replay-then-live."""
    seed: int = MINIATURE.seed

    def world_search(self) -> WorldSearch:
        """How the miniature world is searched."""
        return WorldSearch(self.search, self.latency, self.search_store, self.search_mode)


@dataclass(frozen=True)
class SelectionRule:
    """Which candidates are trained on."""

    select: bool = True  # those that the policy fails at first and solves within five tries; False = all of them
    references: Path | None = None  # a file that names them and their initial references, instead of trying


@dataclass(frozen=True)
class SftSettings:
    """What is tuned from run to run. Defaults are the miniature's."""

    epochs: int = 4
    batch: int = 32
    """Demonstrations a step."""
    weighting: Literal["token", "trajectory"] = "token"
    """What counts alike in the loss: every token of a step, as in the authors' training, or every demonstration."""
    learning_rate: float = 3e-3
    """Falls to a tenth by a cosine, as the paper's 1e-4 does; a model this small takes larger steps."""
    lora_rank: int = AdapterConfig.rank
    lora_alpha: float = AdapterConfig.alpha
    dropout: float = AdapterConfig.dropout
    checkpoint_every: int = 5
    """A checkpoint is written every so many steps."""
    checkpoint_minutes: float = 10.0
    """A checkpoint is also written when the last one is so many minutes old; 0 = by steps only."""
    loader_threads: int = 0
    """Threads that read and resize the images of a batch ahead of its step; 0 = as many as there are cores, up to 8."""
    seed: int = 42


@dataclass(frozen=True)
class TeacherServerConfig:
    """A server that scores as the teacher, so that its weights need no room here.

    A sample that it does not score in time, or scores as other tokens, is trained on without distillation, and counted.
    """

    url: str = ""
    """Like http://host:30000; none = no server."""
    kind: Literal["sglang", "vllm"] = "sglang"
    """What serves: SGLang's `/generate`, or vLLM's `/inference/v1/generate` (0.28 or newer, for images)."""
    model: str = ""
    """SGLang: a LoRA adapter that it holds. vLLM: a name it serves. None = the model it was started with."""
    key_env: str = "TEACHER_API_KEY"
    """Environment variable that holds its key, if it wants one."""
    temperature: float = 1.0
    """Of the server's log-probs; must be the student's. `hypereyes export --temperature` makes such a model."""
    in_flight: int = 16
    """Samples sent at a time."""
    timeout: float = 120.0
    """Seconds for one request."""
    attempts: int = 3
    """Tries of a request that fails (no connection, 5xx, 429, too slow, no JSON), with growing pauses up to 5 s."""
    deadline: float = 300.0
    """Seconds for all samples of a step; those not scored by then are not distilled."""
