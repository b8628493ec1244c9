"""Where the rows of a source lie: files of this machine, of the hub, of a remote store; or an object of a module."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypereyes_jax.data.sources import remote
from hypereyes_jax.data.sources.card import folder_configs, split_of_card
from hypereyes_jax.data.sources.compressed import without_suffix
from hypereyes_jax.data.sources.formats import ARCHIVES, DATA_SUFFIXES, META, is_data, of_one_kind
from hypereyes_jax.data.sources.splits import TRAIN, SplitFiles, default_split, of_split
from hypereyes_jax.data.sources.types import SourceOptions
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import open_regular, read_json_object

_END = 1 << 15  # bytes by which files of one length are compared
_HUB = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?(?::(?P<split>[\w./-]+))?")
# The pages of a data set of the hub and of a file in one, as a browser has their addresses.
_SITE = r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/"
_PAGE = re.compile(_SITE + r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:/tree/(?P<revision>[\w./-]+?)|/viewer.*)?/?")
_FILE_PAGE = re.compile(rf"({_SITE}[^/]+/[^/]+)/blob/")
_OBJECT = re.compile(r"([A-Za-z_][\w.]*|.+\.py):[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class DataFile:
    """One file with rows, on this machine.

    path: where it can be read.
    name: what messages call it.
    root: folder that paths of pictures are relative to.
    fetch: makes a picture beside a remote file a local one, from its relative path; None = the file is local.
    """

    path: Path
    name: str
    root: Path
    fetch: Callable[[str], Path] | None = None


def locate(source: str, options: SourceOptions) -> SplitFiles[DataFile]:
    """The files of a source, in the order of their rows; of a folder or data set with several splits, those of one.

    Raises UserError for what is not there, or cannot be reached, and where it must be said which split is meant.
    """
    if not source.strip():
        raise UserError("the source is an empty text. Give a file, a folder, a pattern or a URL.")
    if page := _PAGE.fullmatch(source):
        return _remote(remote.hub_files(page["name"], page["revision"], None, options.cache))
    if remote.is_url(source):
        return _remote(remote.files(_FILE_PAGE.sub(r"\1/resolve/", source), options.cache))
    path = _expanded(source)
    if any(mark in source for mark in "*?[") and not os.path.exists(path):
        matches = sorted(glob.glob(str(path), recursive=True))
        # Each file once: a link to a folder above makes a pattern with ** match everything again below it.
        real_paths = {os.path.realpath(match): Path(match) for match in reversed(matches) if Path(match).is_file()}
        everything = sorted(real_paths.values(), key=str)
        # "folder/*" means its data, and not the pictures beside them.
        paths = [path for path in everything if _may_hold_rows(path)] or everything
        if not paths:
            raise UserError(f"no file matches {source}. Quote the pattern and check the folder.")
        return SplitFiles([_local(file) for file in paths])
    if os.path.isdir(path):  # unlike Path's own, these say no to a text that is too long for a path
        return _all_local(folder_files(path, None))
    folder, colon, split = source.rpartition(":")
    if colon and folder and os.path.isdir(folder):
        return _all_local(folder_files(Path(folder), split))
    if not os.path.exists(path):
        hub = _hub_name(source, path)
        if hub is None:
            raise _missing(source)
        return _remote(remote.hub_files(hub["name"], hub["revision"], hub["split"], options.cache))
    return SplitFiles([_local(path)])


def second_copies(files: Sequence[DataFile]) -> list[str]:
    """A clause on each file that is as long as another one, and begins and ends as it does."""
    by_size: dict[int, list[DataFile]] = {}
    for file in files:
        by_size.setdefault(file.path.stat().st_size, []).append(file)
    clauses = []
    for size, alike in by_size.items():
        names: dict[bytes, str] = {}
        for file in alike if size and len(alike) > 1 else ():
            if (first := names.setdefault(_ends_of(file.path, size), file.name)) != file.name:
                clauses.append(f"{file.name} seems to be a copy of {first}, and both are read")
    return clauses


def _ends_of(path: Path, size: int) -> bytes:
    with open_regular(path) as file:
        head = file.read(_END)
        file.seek(max(0, size - _END))
        return head + file.read(_END)


def refuse_missing(source: str) -> None:
    """Raises UserError for a source that should be on this machine and is not. Nothing is opened or fetched."""
    if remote.is_url(source) or is_object(source) or any(mark in source for mark in "*?["):
        return
    path = _expanded(source)
    folder, _, _ = source.rpartition(":")  # FOLDER:SPLIT
    if not os.path.exists(path) and not os.path.isdir(folder) and _hub_name(source, path) is None:
        raise _missing(source)


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~name of a user that there is none of
        raise _missing(source) from None


def _hub_name(source: str, path: Path) -> re.Match[str] | None:
    """A source that is not there, as the name of a data set of the hub; None if it does not read as one."""
    if is_data(path.name) or source.startswith(("./", "../", "~", "/")):
        return None
    return _HUB.fullmatch(source)


def _missing(source: str) -> UserError:
    return UserError(f"there is no {source[:300]}. Give the file, or make one with `hypereyes synth`.")


def is_object(source: str) -> bool:
    """Whether a source names an object: `package.module:object`, or `file.py:object`."""
    if not _OBJECT.fullmatch(source):
        return False
    return not os.path.exists(source) and not os.path.isdir(source.partition(":")[0])


def folder_files(folder: Path, split: str | None) -> SplitFiles[Path]:
    """Data files of a folder, as `datasets` saves one or as anybody lays files out.

    Raises UserError for a folder without any, for a split that it lacks, and where one must be named: `default_split`.
    """
    splits = folder / "dataset_dict.json"
    if splits.exists():
        names = read_json_object(splits).get("splits")
        if not isinstance(names, list) or not all(map(_is_name, names)):
            raise UserError(f"{splits} lists no splits as `datasets` writes them. Save the data set again.")
        name = split or (TRAIN if TRAIN in names else names[0] if len(names) == 1 else "")
        if name not in names:
            example = f"{folder}:{names[0] if names else 'SPLIT'}"
            raise UserError(f"{folder} has the splits {', '.join(names)}: give one as {example}.")
        others = () if split else tuple(other for other in names if other != name)
        return replace(folder_files(folder / name, None), split=name, others=others)
    state = folder / "state.json"
    if split is None and state.exists():
        saved_state = read_json_object(state)
        entries = saved_state.get("_data_files")
        if isinstance(entries, list) and all(isinstance(part, dict) and "filename" in part for part in entries):
            if saved_state.get("_indices_files"):
                raise UserError(f"{folder} is a selection of rows: save it again after flatten_indices().")
            names = [part["filename"] for part in entries]
            if not names or not all(map(_is_name, names)):
                raise UserError(f"{state} lists no files as `datasets` writes them. Save the data set again.")
            return SplitFiles([folder / name for name in names])

    def inside_name(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    everything = sorted(folder.rglob("*"))
    inside = [path for path in everything if _may_hold_rows(path.relative_to(folder)) and path.is_file()]
    archives = [path for path in everything if _is_archive(path.relative_to(folder))]
    files = SplitFiles(inside)
    by_name = {inside_name(path): path for path in (*inside, *archives)}
    of_card = split_of_card(folder_configs(folder), list(by_name), split, str(folder))
    if of_card is not None:
        rows = set(map(inside_name, inside))
        others = tuple(name for name in of_card.others if name in rows)
        files = SplitFiles([by_name[name] for name in of_card.files if name in rows], of_card.split, others)
    elif split is not None:
        files = SplitFiles(of_split(inside, split, inside_name), split)
    elif inside:
        files = default_split(inside, inside_name, str(folder))
    if not files.files:
        of = f" for the split {split!r}" if split else ""
        cure = "Give a folder or file with rows"
        if archives:
            cure = f"Unpack what it holds first, such as {inside_name(archives[0])}"
        raise UserError(f"{folder} holds no data file{of} ({', '.join(DATA_SUFFIXES)}). {cure}.")
    data_files = of_one_kind(files.files, str)
    unread = [path for path in files.files if path not in data_files]
    unread += [path for path in archives if is_data(path.stem)]  # and not the pictures in an archive
    return replace(files, files=data_files, unread=tuple(map(inside_name, unread)))


def _is_name(value: Any) -> bool:
    """Whether it is the name of something that lies in a folder, and no way out of it."""
    return isinstance(value, str) and Path(value).name == value and value not in ("", "..")


def _is_archive(path: Path) -> bool:
    # of .tar.gz, too
    suffix = Path(without_suffix(path.name)).suffix.lower()
    return suffix in ARCHIVES and not any(part.startswith(".") for part in path.parts)


def _may_hold_rows(path: Path) -> bool:
    """Whether a name is one of data, and not of what programs leave beside them: hidden files, a Mac's folder."""
    if not is_data(path.name) or path.name in META:
        return False
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.parts if part not in (".", ".."))


def _remote(files: SplitFiles[remote.RemoteFile]) -> SplitFiles[DataFile]:
    local = [DataFile(file.path, file.name, file.path.parent, file.fetch) for file in files.files]
    return SplitFiles(local, files.split, files.others)


def _all_local(files: SplitFiles[Path]) -> SplitFiles[DataFile]:
    return SplitFiles([_local(path) for path in files.files], files.split, files.others, files.unread)


def _local(path: Path) -> DataFile:
    return DataFile(path, str(path), path.parent)
