"""The training loops: SFT, RL, pretraining of the miniature; question selection, distillation, samplers.

`train.rl(checkpoint, questions, out, own=OwnObjects(...))` is a run of RL as a Python call.
"""

import importlib
from typing import Any

_CALLS = {"rl": "rl_call", "OwnObjects": "method", "RlSettings": "settings"}


def __getattr__(name: str) -> Any:
    if name in _CALLS:
        return getattr(importlib.import_module(f"{__name__}.{_CALLS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_CALLS})
