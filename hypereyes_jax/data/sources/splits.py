"""Which split the files of a data set are of, told by their names with the words that the package `datasets` knows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hypereyes_jax.errors import UserError

File = TypeVar("File")
TRAIN = "train"
_WORDS = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(.+)-\d{2,6}-of-(\d{2,6})(?=[-.]|$)[^/]*$")
_EDGE = r"[/._\-= 0-9]"


@dataclass(frozen=True)
class SplitFiles(Generic[File]):
    """The files of one split."""

    files: Sequence[File]
    split: str = ""  # "" where the names tell of none
    others: tuple[str, ...] = ()  # files that are not read, since they are of other splits
    unread: tuple[str, ...] = ()  # data files that are not read, since they are of another format, or compressed


def incomplete_shards(names: Iterable[str]) -> list[str]:
    """A clause on each set of files that number themselves (train-00000-of-00003.parquet) and are not all there."""
    counts = Counter((match[1], match[2]) for name in names if (match := _SHARD.search(name)))
    return [
        f"of the {int(total)} files {stem}-*-of-{total} only {count} are there"
        for (stem, total), count in counts.items()
        if count < int(total)
    ]


def of_split(files: Sequence[File], split: str, name: Callable[[File], str]) -> list[File]:
    """Files whose path says that they are of a split: train.jsonl, train-00000-of-00002.parquet, train/0.parquet.

    Of a split that `datasets` knows by several words, like validation and dev, those with another word where none has
    this one.
    """
    words = next((words for words in _WORDS.values() if split in words), ())
    for group in ((split,), words):
        files_of_group = [file for file in files if _says(name(file), group)]
        if files_of_group:
            return files_of_group
    return []


def default_split(files: Sequence[File], name: Callable[[File], str], source: str) -> SplitFiles[File]:
    """What is read where no split is named: the files for training if the names tell several splits apart.

    Args:
      name: a file's path inside the source.
      source: as it was named, for errors.

    Raises UserError where the names tell of several splits, or of one beside other files, and of none for training:
    what is held out would be mixed into what is trained on.
    """
    by_split: dict[str, list[File]] = {}
    for file in files:
        by_split.setdefault(split_of_name(name(file)), []).append(file)
    if len(by_split) <= 1:
        split = next(iter(by_split), "")
        return SplitFiles(files, split)
    if TRAIN not in by_split:
        splits = [split for split in by_split if split]
        beside = f" beside {name(by_split[''][0])!r}" if "" in by_split else ""
        raise UserError(
            f"{source} holds files of the split{'s' if len(splits) > 1 else ''} {', '.join(splits)}{beside}, and of "
            f"none for training. Say which is meant: {source.rstrip('/')}:{splits[0]}, or a file or pattern."
        )
    others = tuple(name(file) for split, group in by_split.items() if split != TRAIN for file in group)
    return SplitFiles(by_split[TRAIN], TRAIN, others)


def split_of_name(path: str) -> str:
    """The split that a path tells of, in its last part that tells of one; "" if none does."""
    for part in reversed(path.split("/")):
        for split, words in _WORDS.items():
            if _says(part, words):
                return split
    return ""


def split_word(name: str) -> str:
    """The split that a name is a word for, and nothing else; "" for any other name."""
    return next((split for split, words in _WORDS.items() if name.lower() in words), "")


def _says(path: str, words: Sequence[str]) -> bool:
    any_word = "|".join(map(re.escape, words))
    return bool(words) and re.search(rf"(?:^|{_EDGE})(?:{any_word})(?:{_EDGE}|$)", path, re.IGNORECASE) is not None
