"""Which files are of a split as the card of a data set says (README.md), which the package `datasets` goes by."""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hypereyes_jax.data.sources.splits import TRAIN, SplitFiles, split_of_name
from hypereyes_jax.errors import UserError

_MOST_BYTES = 1 << 20  # of a card that are read
_MARK = "---"
_DEFAULT = "default"  # name of the configuration that `datasets` takes where none is named


@dataclass(frozen=True)
class _CardSplit:
    """A split of one configuration, with those of its files that are there."""

    config: str
    split: str
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.config}/{self.split}"


def folder_configs(folder: Path) -> Any:
    """`configs` of the card that lies in a folder; None without any that can be read."""
    try:
        with open(folder / "README.md", encoding="utf-8-sig") as file:
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


def split_of_card(configs: Any, names: Sequence[str], choice: str | None, source: str) -> SplitFiles[str] | None:
    """The files of one split of one configuration; by default those for training, of the default configuration.

    Args:
      configs: of the card.
      names: of the data files, relative to the card.
      choice: a split, a configuration, or both as CONFIGURATION/SPLIT.
      source: as it was named, for errors.

    None where the card says nothing of what is chosen, or names no file that is there.

    Raises UserError where several are meant: what is held out would be mixed into what is trained on.
    """
    splits, default = _read(configs, names)
    if not splits:
        return None
    listed = list(dict.fromkeys(split.config for split in splits))
    default = default or (listed[0] if len(listed) == 1 else None)
    if choice is None and default is None:
        raise UserError(
            f"{source} has several configurations ({', '.join(listed)}). Say which is meant: "
            f"{source.rstrip('/')}:{listed[0]}."
        )
    candidates = _candidates(splits, choice, default)
    if len(candidates) > 1:
        of_training = [split for split in candidates if split.split == TRAIN]
        if len(of_training) != 1:
            example = f"{source.rstrip('/')}:{candidates[0].name}"
            raise UserError(
                f"{source} has several splits that may be meant ({', '.join(split.name for split in candidates)}). "
                f"Say which: {example}."
            )
        candidates = of_training
    if not candidates and len(listed) > 1:  # files of that name would be those of several configurations
        names_of_splits = ", ".join(split.name for split in splits[:10])
        raise UserError(f"{source} has no split or configuration {choice!r}; it has {names_of_splits}.")
    if not candidates:
        return None
    (chosen,) = candidates
    beside: Sequence[str] = ()
    if choice is None:
        beside = names
    elif choice == chosen.config:
        beside = [name for split in splits if split.config == choice for name in split.files]
    others = tuple(name for name in beside if name not in chosen.files)
    return SplitFiles(list(chosen.files), chosen.split if len(listed) == 1 else chosen.name, others)


def _candidates(splits: Sequence[_CardSplit], choice: str | None, default: str | None) -> list[_CardSplit]:
    """Those that may be meant, in the order in which a name is looked up; of None, those of the default one."""
    of_default = [split for split in splits if split.config == default]
    if choice is None:
        return of_default
    for group in (
        [split for split in of_default if split.split == choice],
        [split for split in splits if split.name == choice],
        [split for split in splits if split.config == choice],
    ):
        if group:
            return group
    by_split = [split for split in splits if split.split == choice]
    if len({split.config for split in by_split}) > 1:
        raise UserError(
            f"{choice!r} is a split of several configurations. Say which is meant: "
            f"{' or '.join(split.name for split in by_split[:5])}."
        )
    return by_split


def _read(configs: Any, names: Sequence[str]) -> tuple[list[_CardSplit], str | None]:
    """(Every split that has files, the configuration that is taken by default)."""
    files: dict[tuple[str, str], dict[str, None]] = {}
    default = None
    for config in configs if isinstance(configs, list) else ():
        if not isinstance(config, dict):
            continue
        config_name = str(config.get("config_name") or _DEFAULT)
        if config.get("default") is True or (default is None and config_name == _DEFAULT):
            default = config_name
        folder = config.get("data_dir")
        folder = posixpath.normpath(folder) if isinstance(folder, str) else ""
        inside = {posixpath.relpath(name, folder or "."): name for name in names if _lies_in(name, folder)}
        if config.get("data_files") is None and folder:
            by_name = {name: split_of_name(name) for name in inside}
            pairs = [(split or TRAIN, name) for name, split in by_name.items() if split or not any(by_name.values())]
        else:
            pairs = [
                (split, name) for split, pattern in _patterns(config.get("data_files")) for name in inside
                if _fits(name, pattern)
            ]  # fmt: skip
        for split, name in pairs:
            files.setdefault((config_name, split), {})[inside[name]] = None
    splits = [_CardSplit(config, split, tuple(of_split)) for (config, split), of_split in files.items()]
    return splits, default if any(split.config == default for split in splits) else None


def _patterns(stated: Any) -> Iterator[tuple[str, str]]:
    """(split, pattern) of `data_files`: a pattern, a list, an object by split, or a list of {split, path}."""
    if isinstance(stated, dict):
        stated = [{"split": split, "path": path} for split, path in stated.items()]
    for part in stated if isinstance(stated, list) else [stated]:
        path = part.get("path") if isinstance(part, dict) else part
        split = part.get("split", TRAIN) if isinstance(part, dict) else TRAIN
        for pattern in path if isinstance(path, list) else [path]:
            if isinstance(pattern, str):
                yield str(split), pattern.removeprefix("./")


def _lies_in(name: str, folder: str) -> bool:
    return folder in ("", ".") or name.startswith(f"{folder}/")


def _fits(name: str, pattern: str) -> bool:
    """Whether a path is of a pattern, in which `*` stays within a folder and `**` does not; a folder is all in it."""
    pattern = pattern.strip("/")
    parts = pattern.split("/")
    parts = [part for at, part in enumerate(parts) if part != "**" or at == 0 or parts[at - 1] != "**"]
    is_folder = not any(mark in pattern for mark in "*?[") and name.startswith(f"{pattern}/")
    return is_folder or _parts_fit(name.split("/"), parts)


def _parts_fit(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns or not names:
        return not patterns and not names
    if patterns[0] == "**":
        return len(patterns) == 1 or any(_parts_fit(names[at:], patterns[1:]) for at in range(len(names)))
    return fnmatch.fnmatchcase(names[0], patterns[0]) and _parts_fit(names[1:], patterns[1:])
