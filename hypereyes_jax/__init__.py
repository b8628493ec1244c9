"""HyperEyes in JAX: a multimodal search agent that searches wider instead of longer (arXiv 2605.07177).

The rooms are attributes, imported when first used: `import hypereyes_jax as he; he.rl.trace_reward(...)`. So is
`load`: `he.load("org/name").ask(image, question, search=backend)`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = (
    "configs",
    "data",
    "env",
    "eval",
    "launch",
    "learner",
    "models",
    "plan",
    "processing",
    "reproduce",
    "rl",
    "rollout",
    "runs",
    "study",
    "train",
)


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module(f"{__name__}.eval.agent").load
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")  # which also sets the attribute
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, "load"})
