"""Which files are of a split as the card of a data set says (README.md), which the package `datasets` goes by."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hypereyes_jax.data.sources.splits import TRAIN, SplitFiles

_MOST_BYTES = 1 << 20  # of a card that are read
_MARK = "---"


def folder_configs(folder: Path) -> Any:
    """`configs` of the card that lies in a folder; None without any that can be read."""
    try:
        with open(folder / "README.md", encoding="utf-8") as file:
            text = file.read(_MOST_BYTES)
    except (OSError, UnicodeDecodeError):
        return None
    head, _, rest = text.partition("\n")
    if head.strip() != _MARK:
        return None
    try:
        card = yaml.safe_load(rest.partition(f"\n{_MARK}")[0])
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    return card.get("configs") if isinstance(card, dict) else None


def split_of_card(configs: Any, names: Sequence[str], split: str | None) -> SplitFiles[str] | None:
    """The files of a split, or of a configuration of this name; by default those for training.

    Args:
      configs: of the card.
      names: of the data files, relative to the card.

    None where the card says nothing of that split, or names no file that is there.
    """
    patterns = _patterns(configs, split or TRAIN)
    files = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not files:
        return None
    return SplitFiles(files, split or TRAIN, () if split else tuple(name for name in names if name not in files))


def _patterns(configs: Any, split: str) -> list[str]:
    patterns: list[str] = []
    for config in configs if isinstance(configs, list) else ():
        if not isinstance(config, dict):
            continue
        stated = config.get("data_files")
        for part in stated if isinstance(stated, list) else [stated]:
            path = part.get("path") if isinstance(part, dict) else part
            of = part.get("split", TRAIN) if isinstance(part, dict) else TRAIN
            if split in (of, config.get("config_name")):
                paths = path if isinstance(path, list) else [path]
                patterns += [each.removeprefix("./") for each in paths if isinstance(each, str)]
    return patterns
