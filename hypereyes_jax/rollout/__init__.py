"""Jitted slots, and the asyncio scheduler that joins them with the environment. Knows nothing of rewards.

Names are imported when first used: who reads trajectories needs neither jax nor an engine.
"""

import importlib
from typing import Any

_HOMES = {
    "DecodeRequest": "rollout.engine",
    "Engine": "rollout.engine",
    "EngineConfig": "configs.rollout",
    "Generator": "rollout.episodes",
    "GeneratorError": "rollout.episodes",
    "GeneratorSession": "rollout.episodes",
    "RolloutLimits": "rollout.episodes",
    "Sampled": "rollout.engine",
    "SamplingConfig": "configs.rollout",
    "Scheduler": "rollout.scheduler",
    "SchedulerConfig": "configs.rollout",
    "Timeline": "rollout.timeline",
    "Trajectory": "rollout.types",
    "Turn": "rollout.types",
    "TurnEnd": "rollout.types",
    "run_episodes": "rollout.episodes",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hypereyes_jax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
