"""Sources on other machines: stores that fsspec speaks to, and data sets of the Hugging Face hub. Kept in a cache."""

from __future__ import annotations

import hashlib
import logging
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypereyes_jax.data.sources.cache import cache_folder
from hypereyes_jax.data.sources.card import folder_configs, split_of_card
from hypereyes_jax.data.sources.compressed import without_suffix
from hypereyes_jax.data.sources.formats import ARCHIVES, META, is_data, of_one_kind
from hypereyes_jax.data.sources.splits import TRAIN, SplitFiles, default_split, of_split
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import writing_atomic
from hypereyes_jax.logins import without_login

_UNSEEN = logging.NullHandler()
_BLOCK = 8 << 20
_ENDPOINT: str | None = None  # of the hub; None = what HF_ENDPOINT says


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL, as its local copy."""

    path: Path  # of the copy
    name: str  # as messages call it
    fetch: Callable[[str], Path]  # a file beside it, by its relative path; raises FileNotFoundError


@dataclass(frozen=True)
class _BesideUrl:
    folder: str
    cache: Path | None

    def __call__(self, relative: str) -> Path:
        fs, path = _store(self.folder)
        return _download(fs, posixpath.join(path, relative), self.cache)


@dataclass(frozen=True)
class _BesideHub:
    repository: str
    revision: str
    folder: str
    cache: Path | None

    def __call__(self, relative: str) -> Path:
        from huggingface_hub.errors import EntryNotFoundError

        file = posixpath.join(self.folder, relative)
        try:
            return _hub_file(self.repository, self.revision, file, self.cache)
        except EntryNotFoundError:
            raise FileNotFoundError(file) from None


def is_url(source: str) -> bool:
    """Whether a source is named by its address, of whatever scheme."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source))


def files(url: str, cache: Path | None) -> SplitFiles[RemoteFile]:
    """Copies of the files that a URL, a folder of one (of its split for training), or a pattern names.

    Raises UserError.
    """
    fs, path = _store(url)
    protocol = url.partition("://")[0]
    split_files: SplitFiles[str] | None = None
    with _reaching(url):
        if any(mark in path for mark in "*?["):
            paths = sorted(fs.glob(path))
        elif fs.isdir(path):
            inside = sorted(file for file in fs.find(path) if is_data(file))
            split_files = default_split(inside, lambda file: posixpath.relpath(file, path), url)
            paths = of_one_kind(split_files.files, str)
        else:
            paths = [path] if fs.exists(path) else []
        if not paths:
            raise UserError(f"there is no data file at {url}. Check the name, and that your credentials may read it.")
        out = []
        for file in paths:
            copy = _download(fs, file, cache)
            name = without_login(_with_protocol(protocol, str(file)))
            folder = _with_protocol(protocol, posixpath.dirname(str(file)))
            out.append(RemoteFile(copy, name, _BesideUrl(folder, cache)))
        return SplitFiles(out) if split_files is None else SplitFiles(out, split_files.split, split_files.others)


def _with_protocol(protocol: str, path: str) -> str:
    return path if is_url(path) else f"{protocol}://{path.lstrip('/')}"  # a path over HTTP is the whole URL


def hub_files(repository: str, revision: str | None, split: str | None, cache: Path | None) -> SplitFiles[RemoteFile]:
    """Copies of a hub data set's files of one split, by what its card says, else by their names. Raises UserError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        info = HfApi(endpoint=_ENDPOINT).dataset_info(repository, revision=revision)
    except OfflineModeIsEnabled:
        return _hub_cached(repository, revision, split, cache)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise _hub_problem(repository, error) from None
    except _network_errors() as error:
        raise UserError(
            f"{repository} is not a file or folder here, and the hub was not reached to look for a data set of this "
            f"name ({type(error).__name__}). Check the name and the network, or give a local path."
        ) from None
    names = sorted(sibling.rfilename for sibling in info.siblings or ())
    configs = info.card_data.get("configs") if info.card_data is not None else None
    names_of_split = _of_split(names, configs, split, repository)
    revision = info.sha or revision or "main"
    out = []
    for name in names_of_split.files:
        try:
            path = _hub_file(repository, revision, name, cache)
        except (HfHubHTTPError, LocalEntryNotFoundError) as error:
            raise _hub_problem(repository, error) from None
        beside = _BesideHub(repository, revision, posixpath.dirname(name), cache)
        out.append(RemoteFile(path, f"{repository}/{name}", beside))
    return SplitFiles(out, names_of_split.split, names_of_split.others)


def _hub_cached(repository: str, revision: str | None, split: str | None, cache: Path | None) -> SplitFiles[RemoteFile]:
    """What an earlier run fetched, where the environment says to stay offline."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                repository, repo_type="dataset", revision=revision, local_files_only=True, cache_dir=_hub_cache(cache)
            )
        )
    except LocalEntryNotFoundError:
        raise UserError(
            f"the data set {repository} is not in the cache, and HF_HUB_OFFLINE forbids fetching it. Fetch it once "
            "without that."
        ) from None
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names_of_split = _of_split(names, folder_configs(folder), split, repository)
    copies = [
        RemoteFile(
            folder / name, f"{repository}/{name}", _BesideHub(repository, folder.name, posixpath.dirname(name), cache)
        )
        for name in names_of_split.files
    ]
    return SplitFiles(copies, names_of_split.split, names_of_split.others)


def _hub_file(repository: str, revision: str, name: str, cache: Path | None) -> Path:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        repository, name, repo_type="dataset", revision=revision, cache_dir=_hub_cache(cache), endpoint=_ENDPOINT
    )
    return Path(path)


def _hub_cache(cache: Path | None) -> Path | None:
    return None if cache is None else cache / "hub"


def _hub_problem(repository: str, error: Exception) -> UserError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return UserError(
            f"the data set {repository} is gated: accept its terms on its page, and set HF_TOKEN to a token of that "
            "account."
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"the data set {repository} has no such revision. Give one that its page lists.")
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"{repository} is neither a file or folder here nor a data set of the hub that your token may see. Check "
            "the name, or set HF_TOKEN for a private one."
        )
    return UserError(f"the hub did not give {repository} ({type(error).__name__}). Try again, or give a local path.")


def _network_errors() -> tuple[type[Exception], ...]:
    """What the HTTP client raises that this version of huggingface_hub uses."""
    from huggingface_hub import errors

    return OSError, getattr(errors, "HTTPError", OSError)


def _of_split(names: list[str], configs: Any, split: str | None, repository: str) -> SplitFiles[str]:
    data = [name for name in names if is_data(name) and posixpath.basename(name) not in META]
    archives = [name for name in names if without_suffix(name.lower()).endswith(ARCHIVES)]
    of_card = split_of_card(configs, [*data, *archives], split, repository)
    if of_card is not None:
        readable = [name for name in of_card.files if name in data]
        if not readable:
            raise UserError(
                f"the data set {repository} holds its rows in archives ({of_card.files[0]}). Download and unpack it, "
                "and give the folder."
            )
        return SplitFiles(readable, of_card.split, tuple(name for name in of_card.others if name in data))
    matches = of_split(data, split, str) if split else []
    if not split and data:
        return default_split(data, str, repository)
    if not matches:
        raise UserError(
            f"the data set {repository} has no files for the split {split or TRAIN!r}; it has "
            f"{', '.join(data)[:300] or 'no data files'}. Give {repository}:SPLIT."
        )
    return SplitFiles(matches, split or TRAIN)


def _store(url: str) -> tuple[Any, str]:
    import fsspec

    # Without a handler of anybody's, Python prints the tracebacks that it logs and raises besides.
    logging.getLogger("gcsfs").addHandler(_UNSEEN)
    try:
        with _reaching(url):  # some connect at once
            return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{url} can't be opened ({error}). Install what it needs: pip install 'hypereyes-jax[remote]'."
        ) from None


def _download(fs: Any, file: str, cache: Path | None) -> Path:
    """A copy in the cache, under a name that the remote file's own checksum decides. Raises FileNotFoundError."""
    stamp = f"{type(fs).__name__}\0{file}\0{fs.checksum(file)}"
    copy = cache_folder(cache, "remote") / hashlib.sha256(stamp.encode()).hexdigest()[:32] / posixpath.basename(file)
    if copy.exists():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    with writing_atomic(copy) as ours, fs.open(file, "rb") as theirs:
        while block := theirs.read(_BLOCK):
            ours.write(block)
    return copy


class _reaching:
    """Turns a store's errors into a UserError that names the URL and none of the credentials."""

    def __init__(self, url: str):
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # Each store has its own kinds of errors, which only its package knows: anything but our own and a defect, and
        # what says that there is no store for such a URL.
        ours = UserError | AssertionError | NameError | ImportError
        if isinstance(error, Exception) and not isinstance(error, ours) and type(error) is not ValueError:
            raise UserError(
                f"{self._url} can't be read ({type(error).__name__}). Check the name, the network and your credentials."
            ) from error
