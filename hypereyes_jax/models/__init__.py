"""Models. The folders are attributes, imported when first used, as the rooms are of the package."""

import importlib
from typing import Any

_FOLDERS = ("lora", "qwen3_vl")


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return importlib.import_module(f"{__name__}.{name}")  # which also sets the attribute
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FOLDERS})
