# What type checkers and editors see: __init__.py imports these names when they are first used.
from hypereyes_jax.configs.rollout import EngineConfig as EngineConfig
from hypereyes_jax.configs.rollout import SamplingConfig as SamplingConfig
from hypereyes_jax.configs.rollout import SchedulerConfig as SchedulerConfig
from hypereyes_jax.rollout.engine import DecodeRequest as DecodeRequest
from hypereyes_jax.rollout.engine import Engine as Engine
from hypereyes_jax.rollout.engine import Sampled as Sampled
from hypereyes_jax.rollout.episodes import Generator as Generator
from hypereyes_jax.rollout.episodes import GeneratorError as GeneratorError
from hypereyes_jax.rollout.episodes import GeneratorSession as GeneratorSession
from hypereyes_jax.rollout.episodes import RolloutLimits as RolloutLimits
from hypereyes_jax.rollout.episodes import run_episodes as run_episodes
from hypereyes_jax.rollout.scheduler import Scheduler as Scheduler
from hypereyes_jax.rollout.timeline import Timeline as Timeline
from hypereyes_jax.rollout.types import Trajectory as Trajectory
from hypereyes_jax.rollout.types import Turn as Turn
from hypereyes_jax.rollout.types import TurnEnd as TurnEnd
