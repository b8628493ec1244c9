"""Jitted slots, and the asyncio scheduler that joins them with the environment. Knows nothing of rewards."""

from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig, SchedulerConfig
from hypereyes_jax.rollout.engine import DecodeRequest, Engine, Sampled
from hypereyes_jax.rollout.episodes import Generator, GeneratorError, GeneratorSession, RolloutLimits, run_episodes
from hypereyes_jax.rollout.scheduler import Scheduler
from hypereyes_jax.rollout.timeline import Timeline
from hypereyes_jax.rollout.types import Trajectory, Turn, TurnEnd

__all__ = [
    "DecodeRequest",
    "Engine",
    "EngineConfig",
    "Generator",
    "GeneratorError",
    "GeneratorSession",
    "RolloutLimits",
    "Sampled",
    "SamplingConfig",
    "Scheduler",
    "SchedulerConfig",
    "Timeline",
    "Trajectory",
    "Turn",
    "TurnEnd",
    "run_episodes",
]
