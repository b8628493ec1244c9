from hypereyes_jax import configs as configs
from hypereyes_jax import data as data
from hypereyes_jax import env as env
from hypereyes_jax import eval as eval
from hypereyes_jax import launch as launch
from hypereyes_jax import learner as learner
from hypereyes_jax import models as models
from hypereyes_jax import plan as plan
from hypereyes_jax import processing as processing
from hypereyes_jax import reproduce as reproduce
from hypereyes_jax import rl as rl
from hypereyes_jax import rollout as rollout
from hypereyes_jax import runs as runs
from hypereyes_jax import study as study
from hypereyes_jax import train as train

__version__: str
